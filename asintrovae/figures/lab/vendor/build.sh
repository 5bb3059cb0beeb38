#!/bin/sh
# Makes jax-js.js, the library of the lab: `sh build.sh`, needs npm and the network.
# One file with the WebAssembly backend alone, as the body of a function. A page loads the file as a
# script and hands its text to a worker, because a page opened as a file may fetch nothing.
# Two lines of the library are changed: a kernel is looked up and instantiated once, not at every
# call, which took two thirds of the time of small networks.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
cd "$work"
npm install --silent --no-save --ignore-scripts @jax-js/jax@0.1.25 esbuild@0.28.2
echo 'export { blockUntilReady, defaultDevice, grad, init, jit, lax, nn, numpy, tree, valueAndGrad } from "@jax-js/jax";' > entry.js
echo 'export {};' > none.js
for backend in node_modules/@jax-js/jax/dist/webg*.js; do cp none.js "$backend"; done
backend=$(echo node_modules/@jax-js/jax/dist/backend-*.js)
sed -i \
  -e 's/const func = new WebAssembly.Instance(program.module, \(.*\)).exports.kernel;/const func = program.kernel ??= new WebAssembly.Instance(program.module, \1).exports.kernel;/' \
  -e '/^var WasmBackend/,$ { /^\tprepareKernelSync(kernel) {/,/^\t}/ s/return new Executable/return kernel.prepared ??= new Executable/ }' \
  "$backend"
[ "$(grep -c 'program.kernel ??=\|kernel.prepared ??=' "$backend")" = 2 ]
npx esbuild entry.js --bundle --minify --charset=utf8 --target=es2022 --format=iife --global-name=jax --outfile=jax.js
{
  printf '/*! jax-js 0.1.25 (https://github.com/ekzhang/jax-js), without WebGPU and WebGL,\n * with kernels kept as build.sh says.\n'
  sed 's/^/ * /; s/ *$//' node_modules/@jax-js/jax/LICENSE
  printf ' */\nglobalThis.labLibrary = function () {\n'
  cat jax.js
  printf 'globalThis.jax = jax;\n};\n'
} > "$here/jax-js.js"
rm -r "$work"
sha256sum "$here/jax-js.js"
