"use strict";
// Charts near the window are drawn first, the others one by one: a page with a hundred opens at once.
(() => {
  const settings = {
    responsive: true,
    displaylogo: false,
    showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    toImageButtonOptions: { format: "svg" },
  };
  // a finger that scrolls the page must not move the chart instead
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const draw = (place) => {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "yes";
    const chart = JSON.parse(place.querySelector("script").textContent);
    if (touch) chart.layout.dragmode = false;
    Plotly.newPlot(place, chart.data, chart.layout, settings);
  };
  const places = [...document.querySelectorAll(".chart")];
  if ("IntersectionObserver" in window) {
    const watcher = new IntersectionObserver(
      (entries) => entries.forEach((entry) => entry.isIntersecting && draw(entry.target)),
      { rootMargin: "600px" },
    );
    places.forEach((place) => watcher.observe(place));
  }
  const rest = () => {
    const next = places.find((place) => !place.dataset.drawn);
    if (!next) return;
    draw(next);
    setTimeout(rest, 20);
  };
  setTimeout(rest, 20);
})();
