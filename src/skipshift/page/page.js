"use strict";
// Selectors: of the views of a group, show the one that all its selectors name.
for (const group of document.querySelectorAll(".views")) {
  const selects = [...group.querySelectorAll("select")];
  const views = [...group.querySelectorAll("[data-view]")];
  const none = group.querySelector(".none");
  const choose = () => {
    const wanted = selects.map(select => select.value).join(" ");
    for (const view of views) view.hidden = view.dataset.view !== wanted;
    none.hidden = views.some(view => !view.hidden);
  };
  for (const select of selects) select.addEventListener("change", choose);
  if (selects.length) choose();
}

// Numbers of a block or skip, at the pointer or at the keyboard's focus.
for (const kind of ["pointerover", "focusin"])
  document.addEventListener(kind, event => {
    const mark = event.target.closest?.("[data-told]");
    const line = mark?.closest("figure")?.querySelector(".readout");
    if (line) line.textContent = mark.getAttribute("aria-label");
  });

// Before and after: the slider moves the edge between both pictures.
for (const slider of document.querySelectorAll("input.edge")) {
  const move = () => slider.parentElement.style.setProperty("--edge", slider.value + "%");
  slider.addEventListener("input", move);
  move();
}
