// Cards that are read fold up to one line, and stay so while the person is on this task, through a reload too.

export function readCards(cards, task) {
  const place = `align read ${task.person} ${task.number}`;
  let folded = [];
  try {
    folded = JSON.parse(sessionStorage.getItem(place)) || [];
  } catch {
    // not readable: none is folded
  }

  function set(card, fold) {
    card.classList.toggle("read", fold);
    const button = card.querySelector("[data-do=fold]");
    button.setAttribute("aria-expanded", String(!fold));
    button.textContent = fold ? "+" : "−";
    if (fold) card.querySelector(".start").textContent = card.querySelector(".shown").dataset.source.slice(0, 200);
  }

  cards.forEach((card, i) => set(card, folded.includes(i)));
  return (i) => {
    set(cards[i], !cards[i].classList.contains("read"));
    sessionStorage.setItem(place, JSON.stringify(cards.flatMap((card, at) => (card.classList.contains("read") ? [at] : []))));
  };
}
