"""A pretended CUDA device on a torch without CUDA; import it before torch.

Within `pretend` tensors on the device are fake: they have shape, dtype, strides and device, and no
numbers. Tensors on the CPU are real. Every operation on the device is checked and counted: tensors
of two devices in one operation raise, waits of the host, copies, launches and memory are noted.
"""

import collections
import contextlib
import ctypes
import sys
import types

from cuda_stub import built_stub

assert "torch" not in sys.modules, "import pretended before torch"
ctypes.CDLL(str(built_stub()), ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

from benchmarks.measuring import kernels, modules_move  # noqa: E402

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten._unsafe_index.Tensor)
WAITING = (aten.equal.default, aten.is_nonzero.default)


def site():
    """The innermost line of the package on the stack, or of a caller outside torch."""
    frame, nearest = sys._getframe(1), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if "/torch/" not in name and name != __file__:
            place = f"{name.rsplit('/asintrovae/', 1)[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
            if "/asintrovae/" in name and "/tests/" not in name:
                return place
            nearest = nearest or place
        frame = frame.f_back
    return nearest


class Pretended(TorchDispatchMode):
    """Shapes, checks and counts all that happens on the pretended device.

    Attributes:
        launches: kernels by name of the operation.
        waits: of the host, as text with the line that waits.
        copies: to the device, as text.
        exchanges: between processes, by name.
        doubles: lines that make float64 on the device, which mps has not.
        peak: most bytes alive on the device.
    """

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.fake.allow_scalar_outputs = False
        self.alive, self.now = {}, 0
        self.reset()

    def reset(self):
        """Count from here on."""
        self.launches, self.exchanges = collections.Counter(), collections.Counter()
        self.waits, self.copies, self.doubles = [], [], set()
        self.peak, self.peak_at = self.now, ""

    def __torch_dispatch__(self, func, types_, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":
            with self.fake:
                return func(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        device = kwargs.get("device")
        to_cuda = device is not None and torch.device(device).type == "cuda"
        ins = [x for x in leaves if on_cuda(x)]
        if func.namespace == "c10d":
            self.exchange(func, leaves)
        if not to_cuda and not ins:
            args, kwargs = tree_map_only(FakeTensor, from_device, (args, kwargs))
            return func(*args, **kwargs)
        answer = self.waited(func, args, kwargs, to_cuda, bool(ins))
        if answer is not None:
            return answer

        def faked(x):
            known = isinstance(x, FakeTensor)
            return x if known else self.fake.from_tensor(x, static_shapes=True)

        fake_args, fake_kwargs = tree_map_only(torch.Tensor, faked, (args, kwargs))
        with self.fake:
            out = func(*fake_args, **fake_kwargs)
        self.count(func, args, out)
        return out

    def waited(self, func, args, kwargs, to_cuda, from_cuda):
        """Note a wait or a copy; return what comes back from the device, None for nothing."""
        tags = func.tags
        unknown = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(tags)
        if from_cuda and ((unknown and func not in INDEXING) or func in WAITING):
            self.waits.append(f"{func} at {site()}")
            if func is aten._local_scalar_dense.default:
                return from_device(args[0]).item()
        if func in INDEXING and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        ):
            self.waits.append(f"index by a mask at {site()}")
        if func is aten._to_copy.default:
            to, source, asynchronous = None, args[0], kwargs.get("non_blocking", False)
            away = kwargs.get("device") is not None and not to_cuda
        elif func is aten.copy_.default:
            to, source = args[:2]
            asynchronous = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            away, to_cuda = not on_cuda(to), on_cuda(to) and source.dim() > 0
        else:
            return None
        size = source.numel() * source.element_size()
        if on_cuda(source) and away:
            self.waits.append(f"copy of {size} B from the device at {site()}")
            if to is not None:
                return to.copy_(from_device(source))
            return from_device(source).to(kwargs.get("dtype") or source.dtype)
        if not on_cuda(source) and to_cuda:
            self.copies.append(f"{size} B at {site()}")
            if not asynchronous:
                self.waits.append(f"copy of {size} B to the device at {site()}")
        return None

    def exchange(self, func, leaves):
        """Count an exchange between processes; NCCL wants contiguous tensors on the device."""
        self.exchanges[func._schema.name.split("::")[1].rstrip("_")] += 1
        for tensor in (x for x in leaves if isinstance(x, torch.Tensor)):
            if tensor.device.type != "cuda" or not tensor.is_contiguous():
                raise RuntimeError(f"NCCL refuses a tensor at {site()}: {tensor.device}")

    def count(self, func, args, out):
        """Count a kernel, and the bytes of storages that are new."""
        name = func._overloadpacket.__name__
        from_host = func is aten._to_copy.default and not on_cuda(args[0])
        if not from_host and (launched := kernels(func, args)):
            self.launches[name] += launched
        for x in filter(on_cuda, tree_leaves(out)):
            if x.dtype == torch.float64:
                self.doubles.add(site())
            storage = x.untyped_storage()
            if storage._cdata not in self.alive or self.alive[storage._cdata][0].expired():
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.now = None
        if self.now is None:
            gone = [key for key, (reference, _) in self.alive.items() if reference.expired()]
            for key in gone:
                del self.alive[key]
            self.now = sum(size for _, size in self.alive.values())
            if self.now > self.peak:
                self.peak, self.peak_at = self.now, site()


def on_cuda(x):
    """Whether x is a tensor on the pretended device."""
    return isinstance(x, torch.Tensor) and x.device.type == "cuda"


def from_device(x):
    """What would have come from the device, real: ones, and -1 of int64, which is "never"."""
    return torch.full(x.shape, -1 if x.dtype == torch.int64 else 1, dtype=x.dtype)


@contextlib.contextmanager
def card(memory=141e9, name="NVIDIA H200", capability=(9, 0), count=1, free=None):
    """Let torch.cuda's questions be answered as on a machine with a card."""
    properties = types.SimpleNamespace(
        total_memory=int(memory), name=name, major=capability[0], minor=capability[1]
    )
    properties.multi_processor_count, properties.warp_size = 132, 32
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_properties": lambda device=None: properties,
        "mem_get_info": lambda device=None: (int(free or memory), int(memory)),
        "get_device_name": lambda device=None: name,
        "get_device_capability": lambda device=None: capability,
        "is_bf16_supported": lambda *given, **free: capability >= (8, 0),
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
        "manual_seed_all": lambda seed: None,
        "manual_seed": lambda seed: None,
        "is_current_stream_capturing": lambda: False,
        "_lazy_init": lambda: None,
        "_exchange_device": lambda index: 0,
        "_maybe_exchange_device": lambda index: 0 + 0,  # Dynamo tells the two apart
        "get_rng_state": lambda *given: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *given, **free: None,
    }
    with contextlib.ExitStack() as stack:
        for key, answer in answers.items():
            stack.callback(setattr, torch.cuda, key, getattr(torch.cuda, key))
            setattr(torch.cuda, key, answer)
        yield


@contextlib.contextmanager
def pretend(**given):
    """Pretend a card; yields the counters. Arguments are those of `card`."""
    lift = torch._C._only_lift_cpu_tensors()
    # torch.tensor(..., device="cuda") then copies where the counters see it
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with modules_move(), card(**given), Pretended() as counters:
            yield counters
    finally:
        torch._C._set_only_lift_cpu_tensors(lift)
