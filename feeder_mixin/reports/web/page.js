"use strict";
(async () => {
  const byId = (name) => document.getElementById(name);
  const plots = [...document.querySelectorAll(".plot")];
  const packed = new Map(plots.map((element) => [element, element.querySelector("script").textContent]));
  const darkOf = JSON.parse(byId("dark-colours").textContent);
  const night = matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true, scrollZoom: false };

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // A list shows its first few pairs, or those that the reader looks for; without scripts, all.
  function makeList(list) {
    const items = [...list.children].filter((item) => item.dataset.pair);
    const most = Number(list.dataset.most);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "more";
    if (most > 1) list.closest(".scroll, .grid, .single").after(button);
    let isWhole = false;
    button.addEventListener("click", () => {
      isWhole = true;
      show(filter?.value ?? "");
    });
    return (wanted) => {
      const found = items.filter((item) => item.dataset.pair.toLowerCase().includes(wanted));
      const shown = new Set(isWhole ? found : found.slice(0, most));
      for (const item of items) item.hidden = !shown.has(item);
      button.hidden = shown.size === found.length;
      button.textContent = `Show all ${found.length}`;
    };
  }

  const filter = byId("filter");
  const lists = [...document.querySelectorAll("[data-most]")].map(makeList);
  const names = new Set([...document.querySelectorAll("[data-pair]")].map((item) => item.dataset.pair));

  function show(text) {
    const wanted = text.trim().toLowerCase().split("/")[0];
    for (const list of lists) list(wanted);
    const n = [...names].filter((name) => name.toLowerCase().includes(wanted)).length;
    byId("found")?.replaceChildren(wanted ? `${n} of ${names.size}` : "");
  }

  show("");
  if (filter) {
    filter.parentElement.hidden = false;
    filter.addEventListener("input", () => show(filter.value));
  }

  // Columns of prices and times come as whole steps; plots are made in the light colours, and by night each is
  // swapped for its dark twin.
  function revive(_key, value) {
    if (Array.isArray(value?.steps)) {
      let sum = 0;
      const whole = value.steps.map((step) => (sum += step));
      return value.is_time
        ? whole.map((seconds) => new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " "))
        : whole.map((number) => number / value.per);
    }
    return night.matches && typeof value === "string" && Object.hasOwn(darkOf, value) ? darkOf[value] : value;
  }

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

  const drawn = new Map();

  async function draw(element) {
    const text = drawn.get(element) ?? (await unpack(packed.get(element)));
    const isFirst = !drawn.has(element);
    drawn.set(element, text);
    if (isFirst) element.replaceChildren();
    const { data, layout } = JSON.parse(text, revive);
    await Plotly.react(element, data, layout, config);
    fit(element);
    if (!isFirst) return;
    element.on("plotly_relayout", (change) => {
      if (Object.keys(change).some((key) => key.startsWith("xaxis"))) fit(element);
    });
  }

  function fail(error) {
    byId("undrawn").textContent = `This browser can't draw the figures (${error}). Their numbers are in the tables.`;
    byId("undrawn").hidden = false;
    for (const element of plots) if (!drawn.has(element)) element.style.height = "auto";
  }

  try {
    const library = document.createElement("script");
    library.textContent = await unpack(byId("library").textContent);
    document.head.append(library);
    // Each plot is unpacked and drawn when it comes into sight: there may be hundreds.
    const watch = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          watch.unobserve(target);
          draw(target).catch(fail);
        }
      },
      { rootMargin: "400px" },
    );
    for (const element of plots) watch.observe(element);
    night.addEventListener("change", () => {
      for (const element of drawn.keys()) draw(element).catch(fail);
    });
    document.documentElement.dataset.ready = "yes";
  } catch (error) {
    fail(error);
  }
})();
