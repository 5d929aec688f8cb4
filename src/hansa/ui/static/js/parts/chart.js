// A chart: a line for the global model, a band for its clients, further lines for whoever is pinned or compared.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../html.js";
import uPlot from "../../vendor/uplot.js";
import { ABSENT, absent, count, isShare, metric, number } from "../format.js";
import { csv, save } from "./acts.js";
import { Icon } from "./icon.js";

const HEIGHT = 230;
export const SERIES = ["blue", "orange", "green", "purple", "sky", "yellow", "red", "grey"];
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** How a line is broken, so that two that lie on each other are both seen, by whoever tells no colours apart too. */
const dash = (one, k) => DASHES[one.thin ? 1 + (k % 3) : k % DASHES.length];

/** The ticks of an axis, with as many decimals as their distance has. */
function ticks(share, at, step) {
  const scale = share ? 100 : 1;
  const decimals = (String(+(scale * step).toPrecision(3)).split(".")[1] ?? "").length;
  const size = Math.max(...at.map(Math.abs)) * scale;
  return at.map((tick) => (size >= 1e6 || step * scale < 1e-6 ? String(+(scale * tick).toPrecision(6)) : (scale * tick).toFixed(decimals)) + (share ? " %" : ""));
}

/** Whether numbers are the same, in the same order. */
const same = (some, others) => some === others || (some.length === others.length && some.every((one, k) => one === others[k]));

/** Rounds that all series have in common, and each series over them: null where it has none. */
function align(series, band) {
  const [first, ...others] = [...series, ...(band ? [band] : [])].map((one) => one.rounds);
  const rising = first?.every((round, k) => !k || round > first[k - 1]);
  if (rising && others.every((one) => same(first, one))) return { rounds: first, lines: series.map((one) => one.values), low: band?.low, high: band?.high };
  const rounds = [...new Set([...series.flatMap((one) => one.rounds), ...(band?.rounds ?? [])])].sort((a, b) => a - b);
  const at = new Map(rounds.map((round, k) => [round, k]));
  const spread = (where, values) => {
    const made = new Array(rounds.length).fill(null);
    where.forEach((round, k) => { made[at.get(round)] = values[k]; });
    return made;
  };
  return { rounds, lines: series.map((one) => spread(one.rounds, one.values)), low: band && spread(band.rounds, band.low), high: band && spread(band.rounds, band.high) };
}

function options(width, name, series, data) {
  const line = (one, k) => ({
    label: one.label,
    stroke: ink(one.colour ?? SERIES[k % SERIES.length]),
    width: one.thin ? 1.4 : 2,
    dash: dash(one, k),
    spanGaps: false,
    points: { show: data.rounds.length < 2 || undefined, size: 5 },
  });
  const axis = { stroke: ink("text-2"), font: "11.5px Inter, sans-serif", ticks: { show: false } };
  const edge = { stroke: "transparent", width: 0, points: { show: false } };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { points: { size: 7 }, drag: { x: true, y: false }, sync: { key: "rounds" } },
    scales: {
      x: { time: false, range: (_, low, high) => (low === null ? [0, 1] : low === high ? [low - 1, high + 1] : [low, high]) },
      y: { range: (_, low, high) => {
        if (low === null) return [0, 1];
        const pad = (high - low || Math.abs(high) || 1) * 0.08;
        return [isShare(name) || low >= 0 ? Math.max(0, low - pad) : low - pad, isShare(name) ? Math.min(1, high + pad) : high + pad];
      } },
    },
    series: [{}, ...series.map(line), ...(data.low ? [edge, edge] : [])],
    bands: data.low ? [{ series: [series.length + 2, series.length + 1], fill: ink("band") }] : [],
    axes: [
      { ...axis, grid: { show: false }, size: 30, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000] },
      { ...axis, grid: { stroke: ink("grid"), width: 1 }, size: 62, space: 34, values: (_, at, __, ___, step) => ticks(isShare(name), at, step) },
    ],
  };
}

/**
 * A metric over rounds. series: {id, label, rounds, values, colour, thin, onRemove}; band: {rounds, low, high, label}.
 * The values under the pointer, or the newest, stand below; the same numbers are in a table for who cannot see it.
 */
export function Chart({ title, note, name, series, band, file = title, empty = "No round has told it yet", theme }) {
  const place = useRef();
  const plot = useRef();
  const [at, hover] = useState(null);
  const [wide, resize] = useState(0);
  const [asTable, show] = useState(false);
  const [seen, see] = useState(true);
  const data = useMemo(() => align(series, band), [series, band]);
  const columns = [data.rounds, ...data.lines, ...(data.low ? [data.low, data.high] : [])];
  const shape = JSON.stringify([series.map(({ id, label, colour, thin }) => [id, label, colour, thin]), Boolean(data.low), data.rounds.length < 2, theme, name]);

  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => resize(Math.floor(entry.contentRect.width)));
    watch.observe(place.current);
    const look = new IntersectionObserver((entries) => see(entries.at(-1).isIntersecting), { rootMargin: "25%" });
    look.observe(place.current);
    return () => {
      watch.disconnect();
      look.disconnect();
    };
  }, []);

  const drawn = useRef();
  useLayoutEffect(() => {
    if (!wide || !data.rounds.length || asTable) return undefined;
    drawn.current = data;
    const made = new (/** @type {any} */ (uPlot))(options(wide, name, series, data), columns, place.current);
    made.root.setAttribute("aria-hidden", "true");
    made.hooks.setCursor = [(u) => hover(u.cursor.idx ?? null)];
    plot.current = made;
    return () => {
      plot.current = null;
      made.destroy();
    };
  }, [shape, wide > 0, data.rounds.length > 0, asTable]);

  useLayoutEffect(() => { // in the frame of the numbers below it; where nobody looks, when somebody does
    if (!seen || drawn.current === data) return;
    drawn.current = data;
    plot.current?.setData(columns);
  }, [data, seen]);
  useEffect(() => { if (wide) plot.current?.setSize({ width: wide, height: HEIGHT }); }, [wide]);

  const last = data.rounds.length - 1;
  const k = at !== null && at <= last ? at : last;
  const value = (line) => (k < 0 ? ABSENT : metric(name, k === last && absent(line[k]) ? line.findLast((v) => !absent(v)) : line[k]));
  const rows = () => data.rounds.map((round, i) => [round, ...data.lines.map((line) => line[i]), ...(data.low ? [data.low[i], data.high[i]] : [])]);
  const heads = ["round", ...series.map((one) => one.label), ...(data.low ? ["p10", "p90"] : [])];

  return html`<section class="card">
    <header><h2>${title}</h2>${note && html`<span class="note">${note}</span>`}
      <div class="right marks">
        <button class="button small quiet icon-only" aria-pressed=${asTable} aria-label=${`${title} as a table`} title="As a table" disabled=${last < 0} onClick=${() => show(!asTable)}><${Icon} name="table" /></button>
        <button class="button small quiet icon-only" aria-label=${`Save ${title} as an image`} title="Save as PNG" disabled=${last < 0 || asTable} onClick=${() => picture(plot.current, title, heads, file)}><${Icon} name="photo" /></button>
        <button class="button small quiet icon-only" aria-label=${`Save ${title} as CSV`} title="Save as CSV" disabled=${last < 0} onClick=${() => save(`${file}.csv`, csv(heads, rows()), "text/csv")}><${Icon} name="download" /></button>
      </div>
    </header>
    <div class="plot" ref=${place} role="img" hidden=${asTable} aria-label=${last < 0 ? `${title}: ${empty}` : `${title} over ${data.rounds.length} rounds: ${series.map((one, i) => `${one.label} ${value(data.lines[i])}`).join(", ")}`}>
      ${last < 0 && html`<div class="empty"><p>${empty}</p></div>`}
    </div>
    ${asTable && html`<div class="scroll" tabindex="0" role="region" aria-label=${`${title} as a table`} style=${{ maxHeight: "280px" }}><table>
      <thead><tr>${heads.map((head) => html`<th scope="col" class="n">${head}</th>`)}</tr></thead>
      <tbody>${rows().reverse().map((row) => html`<tr key=${row[0]}>${row.map((v, i) => html`<td class="n">${i ? metric(name, v) : v}</td>`)}</tr>`)}</tbody>
    </table></div>`}
    ${last >= 0 && html`<ul class="legend">
      <li>Round <b>${data.rounds[k]}</b></li>
      ${series.map((one, i) => html`<li key=${one.id ?? one.label}><svg viewBox="0 0 18 10" aria-hidden="true"><path d="M0 5h18" stroke="var(--${one.colour ?? SERIES[i % SERIES.length]})" stroke-dasharray=${dash(one, i).join(" ") || undefined} /></svg>${one.label} <b>${value(data.lines[i])}</b>${one.onRemove && html`<button class="pin" aria-label=${`Remove ${one.label}`} onClick=${one.onRemove}>×</button>`}</li>`)}
      ${data.low && html`<li>p10–p90 of clients <b>${value(data.low)} – ${value(data.high)}</b></li>`}
    </ul>`}
  </section>`;
}

/** The chart as a PNG, with its title and legend, at the resolution of the screen. */
function picture(plot, title, heads, file) {
  if (!plot) return;
  const from = plot.ctx.canvas;
  const { made, pen, ratio } = paper(from.width, from.height, title, heads.slice(1).join(" · "));
  pen.drawImage(from, 0, 56 * ratio);
  made.toBlob((blob) => save(`${file}.png`, blob));
}

/** A histogram as a PNG. */
function pictureOfBars(bins, most, ends, title, note, file) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [560 * ratio, 190 * ratio];
  const { made, pen } = paper(width, height, title, note);
  const [left, floor, wide] = [14 * ratio, (56 + 150) * ratio, (width - 28 * ratio) / bins.length];
  bins.forEach((bin, k) => {
    pen.fillStyle = ink("blue");
    const tall = (140 * ratio * bin.n) / most;
    pen.fillRect(left + k * wide + ratio, floor - tall, wide - 2 * ratio, tall);
  });
  pen.fillStyle = ink("line-strong");
  pen.fillRect(left, floor, wide * bins.length, ratio);
  pen.fillStyle = ink("text-2");
  ends.forEach((text, k) => {
    pen.textAlign = k === 0 ? "left" : k === 1 ? "center" : "right";
    pen.fillText(text, left + (k * wide * bins.length) / 2, floor + 20 * ratio);
  });
  made.toBlob((blob) => save(`${file}.png`, blob));
}

/** A canvas with a title, a line of text, and room below. */
function paper(width, height, title, note) {
  const ratio = devicePixelRatio || 1;
  const made = document.createElement("canvas");
  made.width = width;
  made.height = height + 62 * ratio;
  const pen = made.getContext("2d");
  pen.fillStyle = ink("surface");
  pen.fillRect(0, 0, made.width, made.height);
  pen.fillStyle = ink("text");
  pen.font = `600 ${15 * ratio}px Inter, sans-serif`;
  pen.fillText(title, 14 * ratio, 24 * ratio);
  pen.font = `${12 * ratio}px Inter, sans-serif`;
  pen.fillStyle = ink("text-2");
  pen.fillText(note, 14 * ratio, 44 * ratio);
  return { made, pen, ratio };
}

/** Counts in equal bins: a histogram of what clients have. values: numbers; format: of a bin's edge. */
export function Histogram({ title, note, values, format = number, unit = "clients", file = title }) {
  const bins = useMemo(() => histogram(values), [values]);
  const most = Math.max(1, ...bins.map((bin) => bin.n));
  const ends = bins.length ? [format(bins[0].from), `highest bar: ${count(most)}`, format(bins.at(-1).to)] : [];
  const words = bins.map((bin) => `${bin.n} between ${format(bin.from)} and ${format(bin.to)}`).join("; ");
  return html`<section class="card">
    <header><h2>${title}</h2>${note && html`<span class="note">${note}</span>`}<div class="right marks">
      <button class="button small quiet icon-only" aria-label=${`Save ${title} as an image`} title="Save as PNG" disabled=${!bins.length} onClick=${() => pictureOfBars(bins, most, ends, title, note ?? "", file)}><${Icon} name="photo" /></button>
      <button class="button small quiet icon-only" aria-label=${`Save ${title} as CSV`} title="Save as CSV" disabled=${!bins.length}
        onClick=${() => save(`${file}.csv`, csv(["from", "to", unit], bins.map((bin) => [bin.from, bin.to, bin.n])), "text/csv")}><${Icon} name="download" /></button></div></header>
    ${bins.length
      ? html`<div class="body"><div class="bars" role="img" aria-label=${`${title}: ${words}`}>
          ${bins.map((bin, k) => html`<i key=${k} style=${{ height: `${(100 * bin.n) / most}%` }} title=${`${bin.n} ${unit}: ${format(bin.from)} to ${format(bin.to)}`}></i>`)}
        </div><p class="ends">${ends.map((text) => html`<span key=${text}>${text}</span>`)}</p></div>`
      : html`<div class="empty"><p>Nothing to count yet</p></div>`}
  </section>`;
}

function histogram(values) {
  const known = values.filter((value) => !absent(value));
  if (!known.length) return [];
  let low = Math.min(...known);
  let high = Math.max(...known);
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const n = Math.max(5, Math.min(24, Math.ceil(Math.sqrt(known.length))));
  const bins = Array.from({ length: n }, (_, k) => ({ from: low + ((high - low) * k) / n, to: low + ((high - low) * (k + 1)) / n, n: 0 }));
  for (const value of known) bins[Math.min(n - 1, Math.floor(((value - low) / (high - low)) * n))].n += 1;
  return bins;
}
