"use strict";
// Plots what a service was like, and marks what happened to it. While somebody can see it the end is read every few
// seconds, and all of it once a minute: a gate may tell late what was before
(() => {
  const plots = document.getElementById("plots");
  if (plots === null) return;
  const EVERY_MS = 5000;
  const WHOLE_MS = 60000;
  const ENDS = {"15m": "2m", "24h": "10m"};
  const LEGEND = 60;  // pixels
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const LINES = {
    rates: [["offered", "--offered", 1], ["granted", "--granted", 2], ["limit", "--limit", 1]],
    waiting: [["waiting", "--waiting", 2]],
  };
  const KINDS = {"take-over": "--offered", policy: "--link", pause: "--warn", resume: "--good", "breach.opened": "--bad"};
  let since = "15m", step = "1", marks = [], pauses = [], drawn = [], timer = 0, asked = 0, whole = 0;

  // light-dark() in a property is resolved only where it is used as a colour
  const probe = document.createElement("i");
  probe.hidden = true;
  plots.append(probe);
  const resolved = (name) => {
    probe.className = "colour" + name;
    return getComputedStyle(probe).color || colour(name);
  };

  const number = (value) => value === null || value === undefined ? "–"
    : value >= 100 ? Math.round(value).toLocaleString("en") : String(Math.round(value * 100) / 100);

  const clock = (at) => new Date(at * 1000).toISOString().slice(11, 19);

  const drawMarks = (plot) => {
    const {ctx, bbox} = plot;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const mark of marks) {
      const x = Math.round(plot.valToPos(mark.at_ms / 1000, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = resolved(KINDS[mark.kind] ?? "--soft");
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };

  // A pause is a band from its beginning to its end, behind the lines
  const drawPauses = (plot) => {
    const {ctx, bbox} = plot;
    ctx.save();
    ctx.globalAlpha = 0.16;
    ctx.fillStyle = resolved("--warn");
    for (const [from, until] of pauses) {
      const [left, right] = [from, until].map((at) =>
        Math.min(Math.max(plot.valToPos(at / 1000, "x", true), bbox.left), bbox.left + bbox.width));
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
    }
    ctx.restore();
  };

  const made = (place, lines, data) => {
    const axis = {stroke: resolved("--soft"), grid: {stroke: resolved("--line"), width: 1}, ticks: {show: false}};
    return new uPlot({
      width: place.clientWidth, height: 180, tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      cursor: {sync: {key: "service"}, drag: {x: true, y: false}},
      scales: {y: {range: (_, least, most) => [0, most > 0 ? most * 1.05 : 1]}},
      axes: [{...axis, space: 70, values: (_, all) => all.map((at) => clock(at).slice(0, 5))}, {...axis, size: LEGEND, values: (_, all) => all.map(number)}],
      series: [{value: (_, at) => at === null ? "–" : clock(at)}, ...lines.map(
        ([label, name, width]) => ({
          label, stroke: resolved(name), width, points: {show: false}, value: (_, value) => number(value),
          dash: label === "limit" ? [6, 4] : undefined,
        }))],
      hooks: {drawAxes: [drawPauses], draw: [drawMarks]},
    }, data, place);
  };

  const columns = (told, lines) => {
    const times = told.granted.map((_, i) => (told.start_ms + (i + 1) * told.step_ms) / 1000);
    return [times, ...lines.map(([name]) => told[name])];
  };

  let shown = null;
  const draw = (told) => {
    shown = told;
    marks = told.marks;
    pauses = told.pauses;
    const places = [...plots.querySelectorAll(".plot")];
    places.forEach((place, i) => {
      const lines = LINES[place.dataset.of], data = columns(told, lines);
      if (drawn[i] === undefined) drawn[i] = made(place, lines, data);
      else drawn[i].setData(data);
    });
    const list = plots.querySelector(".plotted");
    list.replaceChildren(...marks.slice(-5).reverse().map((mark) => {
      const item = document.createElement("li"), time = document.createElement("time");
      time.textContent = clock(mark.at_ms / 1000);
      item.append(time, mark.what);
      return item;
    }));
    plots.dataset.drawn = since;
    plots.dataset.pauses = pauses.length;
    plots.dataset.steps = told.granted.length;
    plots.dataset.end = told.start_ms + told.granted.length * told.step_ms;
  };

  // What was told before with its end told anew; null where nothing is known of some time between them
  const joined = (before, end) => {
    const {start_ms, step_ms} = end, length = before.granted.length;
    const first = start_ms + (end.granted.length - length) * step_ms;
    const from = (first - before.start_ms) / step_ms, to = (start_ms - before.start_ms) / step_ms;
    if (step_ms !== before.step_ms || from < 0 || to > length || !Number.isInteger(from)) return null;
    const told = {start_ms: first, step_ms};
    for (const name of ["offered", "granted", "waiting", "limit"]) told[name] = before[name].slice(from, to).concat(end[name]);
    told.pauses = before.pauses.filter(([from, until]) => until >= first && !end.pauses.some((one) => one[0] === from)).concat(end.pauses);
    told.marks = before.marks.filter(({at_ms}) => at_ms >= first && at_ms < start_ms).concat(end.marks);
    return told;
  };

  const again = () => {
    for (const plot of drawn) plot.destroy();
    drawn = [];
    if (shown !== null) draw(shown);
  };

  const read = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    const mine = ++asked, before = performance.now() - whole < WHOLE_MS ? shown : null;
    try {
      const answer = await fetch(`${plots.dataset.history}?since=${before === null ? since : ENDS[since]}&step=${step}`);
      if (answer.ok && mine === asked) {
        const told = await answer.json(), all = before === null ? told : joined(before, told);
        if (before === null) whole = performance.now();
        if (all === null) whole = -WHOLE_MS;
        else if (mine === asked) draw(all);
      }
    } catch {
      // the gate is away; the page says so
    }
    if (mine === asked) timer = setTimeout(read, EVERY_MS);
  };

  for (const button of plots.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      ({since, step} = button.dataset);
      for (const one of plots.querySelectorAll("button")) one.setAttribute("aria-pressed", String(one === button));
      for (const plot of drawn) plot.destroy();
      drawn = [];
      shown = null;
      read();
    });
  }
  document.addEventListener("visibilitychange", read);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let width = 0;
  new ResizeObserver(() => {
    if (plots.clientWidth === width) return;
    width = plots.clientWidth;
    drawn.forEach((plot) => plot.setSize({width: plot.root.parentElement.clientWidth, height: 180}));
  }).observe(plots);
  read();
})();
