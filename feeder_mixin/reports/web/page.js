"use strict";
(async () => {
  const byId = (name) => document.getElementById(name);
  const boxes = [...document.querySelectorAll(".plot")].map((element) => ({
    element,
    text: element.querySelector("script").textContent,
  }));
  const darkOf = JSON.parse(byId("dark-colours").textContent);
  const night = matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true, scrollZoom: false };

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // Plots are made in the light colours; by night each is swapped for its dark twin.
  const swap = (_key, value) =>
    night.matches && typeof value === "string" && Object.hasOwn(darkOf, value) ? darkOf[value] : value;

  // Fits the price axis to the candles in sight: plotly leaves it as it was.
  function fit(element) {
    const candles = element.data.find((trace) => trace.type === "candlestick");
    if (!candles) return;
    const range = element.layout.xaxis.range.map((end) => new Date(end).getTime());
    const seen = candles.x.map((time) => new Date(time).getTime()).map((time) => time >= range[0] && time <= range[1]);
    const prices = [candles.low, candles.high, ...element.data.filter((t) => t.mode === "lines").map((t) => t.y)]
      .flatMap((values) => values.filter((_value, place) => seen[place]));
    if (!prices.length) return;
    const [low, high] = [Math.min(...prices), Math.max(...prices)];
    const pad = 0.04 * (high - low);
    Plotly.relayout(element, { "yaxis.range": [low - pad, high + pad] });
  }

  async function draw({ element, text }) {
    const { data, layout } = JSON.parse(text, swap);
    await Plotly.react(element, data, layout, config);
    fit(element);
  }

  async function drawAll() {
    for (const box of boxes) {
      await draw(box);
      await new Promise((resume) => setTimeout(resume)); // the page answers between two plots
    }
  }

  try {
    const library = document.createElement("script");
    library.textContent = await unpack(byId("library").textContent);
    document.head.append(library);
    for (const { element } of boxes) element.replaceChildren();
    await drawAll();
    for (const { element } of boxes) {
      element.on("plotly_relayout", (change) => {
        if (Object.keys(change).some((key) => key.startsWith("xaxis"))) fit(element);
      });
    }
    night.addEventListener("change", drawAll);
    document.documentElement.dataset.drawn = String(boxes.length);
  } catch (error) {
    byId("undrawn").textContent = `This browser can't draw the figures (${error}). Their numbers are in the tables.`;
    byId("undrawn").hidden = false;
    for (const { element } of boxes) element.style.height = "auto";
  }
})();
