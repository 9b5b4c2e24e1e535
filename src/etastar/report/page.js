"use strict";
// Charts are drawn when they come near the window: a page with a hundred opens at once.
(() => {
  const settings = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };
  const draw = (place) => {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "yes";
    const chart = JSON.parse(place.querySelector("script").textContent);
    Plotly.newPlot(place, chart.data, chart.layout, settings);
  };
  const places = document.querySelectorAll(".chart");
  if (!("IntersectionObserver" in window)) {
    places.forEach(draw);
    return;
  }
  const watcher = new IntersectionObserver(
    (entries) => entries.forEach((entry) => entry.isIntersecting && draw(entry.target)),
    { rootMargin: "600px" },
  );
  places.forEach((place) => watcher.observe(place));
})();
