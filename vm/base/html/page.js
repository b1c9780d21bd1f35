"use strict";
(() => {
  const data = document.getElementById("figures");
  const figures = data ? JSON.parse(data.textContent) : {};
  const config = { displayModeBar: false, responsive: true };
  const draw = (element, name) => Plotly.newPlot(element, figures[name].data, figures[name].layout, config);
  for (const element of document.querySelectorAll("[data-figure]")) draw(element, element.dataset.figure);
  const choice = document.getElementById("pool-choice");
  if (choice) choice.addEventListener("change", () => draw(document.getElementById("pool-figure"), choice.value));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && location.hash.startsWith("#pair-")) location.hash = "#matrix";
  });
  for (const panel of document.querySelectorAll(".panel")) {
    panel.addEventListener("click", (event) => { if (event.target === panel) location.hash = "#matrix"; });
  }
})();
