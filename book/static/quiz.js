// Makes buttons of the options of each quiz: a choice shows its explanation at once, and each option tried keeps its
// verdict. Without this file a reader sees the options and, folded, all explanations.
for (const quiz of document.querySelectorAll("fieldset.quiz")) {
  const explanations = [...quiz.querySelectorAll(".quiz-explanations > li")];
  const shown = document.createElement("div");
  shown.className = "quiz-shown";
  shown.setAttribute("aria-live", "polite");

  const buttons = [...quiz.querySelectorAll(".quiz-options > li")].map((option, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiz-option";
    button.setAttribute("aria-pressed", "false");
    const text = document.createElement("span"), verdict = document.createElement("span");
    const paragraphs = option.querySelectorAll(":scope > p");
    text.append(...(paragraphs.length ? paragraphs[0] : option).childNodes); // a button holds no paragraphs
    for (const paragraph of paragraphs) paragraph.remove();
    verdict.className = "quiz-verdict";
    button.append(text, verdict);
    button.addEventListener("click", () => choose(index));
    option.append(button);
    return button;
  });

  function choose(index) {
    const explanation = explanations[index], button = buttons[index];
    const right = explanation.classList.contains("quiz-right");
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    button.classList.add(right ? "quiz-right" : "quiz-wrong");
    button.querySelector(".quiz-verdict").textContent = right ? "✓ right" : "✗ wrong";
    shown.className = `quiz-shown ${right ? "quiz-right" : "quiz-wrong"}`;
    shown.replaceChildren(...[...explanation.childNodes].map((node) => node.cloneNode(true)));
  }

  quiz.querySelector(".quiz-options").after(shown);
  quiz.classList.add("quiz-live"); // the style sheet takes the folded explanations off the screen, not off paper
}
