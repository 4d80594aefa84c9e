"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const drawn = new Set();

  // Colours of the page, so that figures follow its theme.
  const themed = (layout) => {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const result = {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--ink"), size: 13, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: color("--card"), bordercolor: color("--line"), font: { color: color("--ink") }, align: "left" },
    };
    for (const name of Object.keys(result).filter((key) => /^[xy]axis\d*$/.test(key))) {
      result[name] = { ticklabelstandoff: 6, gridcolor: color("--grid"), linecolor: color("--line"), ...result[name] };
    }
    return result;
  };
  // Numbers in cells have the colour of the text, since plotly cannot know what lies behind transparent cells.
  const inked = (data) => {
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    return data.map((trace) => (trace.type === "heatmap" ? { ...trace, textfont: { color: ink } } : trace));
  };
  const draw = (plot) => {
    if (drawn.has(plot)) return;
    drawn.add(plot);
    const { data, layout } = figures[plot.id];
    const config = { responsive: true, displaylogo: false, displayModeBar: false };
    Plotly.newPlot(plot, inked(data), themed(layout), config).then(() => plot.setAttribute("data-drawn", "true"));
  };
  const observer = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "400px" },
  );
  plots.forEach((plot) => observer.observe(plot));
  addEventListener("beforeprint", () => plots.forEach(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawn.forEach((plot) => Plotly.react(plot, inked(figures[plot.id].data), themed(figures[plot.id].layout)));
  });

  // The link of the section that is in view.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const inView = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((found) => found.isIntersecting)) {
        links.forEach((link) => link.removeAttribute("aria-current"));
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  document.querySelectorAll("main section").forEach((section) => inView.observe(section));

  // Folded parts stay as they are when the page reloads itself.
  const store = (() => {
    try { return sessionStorage; } catch { return { getItem: () => null, setItem: () => undefined }; }
  })();
  document.querySelectorAll("details").forEach((fold, index) => {
    const key = `fold-${location.pathname}-${index}`;
    if (store.getItem(key) === "open") fold.open = true;
    fold.addEventListener("toggle", () => store.setItem(key, fold.open ? "open" : ""));
  });

  if (document.body.dataset.live !== "true") return;
  const RELOAD_SECONDS = 10, STALE_SECONDS = 180;
  const pause = document.getElementById("pause"), text = document.getElementById("live-text");
  const isPaused = () => store.getItem("paused") === "yes";
  const age = () => Date.now() / 1000 - Number(document.body.dataset.written);
  const show = () => {
    const stale = age() > STALE_SECONDS;
    const time = new Date(1000 * Number(document.body.dataset.written)).toLocaleTimeString();
    text.textContent = stale ? `no update since ${time}: the search was stopped, or is busy` : `running, as of ${time}`;
    document.querySelector(".live").classList.toggle("stale", stale);
    pause.setAttribute("aria-pressed", String(isPaused()));
    pause.textContent = isPaused() ? "resume updates" : "pause updates";
  };
  pause.addEventListener("click", () => { store.setItem("paused", isPaused() ? "" : "yes"); show(); });
  show();
  setInterval(() => {
    show();
    const isReading = document.hidden || document.querySelector(".plot:hover") !== null || String(getSelection()) !== "";
    if (!isPaused() && !isReading) location.reload();
  }, 1000 * RELOAD_SECONDS);
})();
