// The aggregation tree: drawn where it fits, a list of rows where it does not; choosing a server filters the clients.
import { count, own, plural } from "../format.js";
import { html } from "../html.js";
import { Rows } from "./table.js";
import { Ago, Glyph, Status } from "./status.js";

const WIDEST = 8; // leaves that are drawn side by side
const DEEPEST = 4;
const PER_ROW = 10;
const MOST_DOTS = 60;
const BOX = { width: 128, height: 44, gap: 26, rise: 92 };
const COLOURS = { training: "blue", evaluating: "purple", idle: "grey", offline: "line-strong", failed: "red", accepted: "green", rejected: "red" };

export const named = (server) => (server.name === "root" ? "controller" : server.name);

/** [{server, depth}] from the root down, children below their parent; a server whose parent is unknown is below the root. */
export function ordered(servers) {
  const below = new Map();
  const names = new Set(servers.map((one) => one.name));
  for (const one of servers) {
    if (!one.parent) continue;
    const parent = names.has(one.parent) ? one.parent : "root";
    below.set(parent, [...(below.get(parent) ?? []), one]);
  }
  const made = [];
  const seen = new Set();
  const walk = (server, depth) => {
    if (seen.has(server.name)) return;
    seen.add(server.name);
    made.push({ server, depth, children: below.get(server.name) ?? [] });
    for (const child of below.get(server.name) ?? []) walk(child, depth + 1);
  };
  const root = servers.find((one) => !one.parent);
  if (root) walk(root, 0);
  return made;
}

/** servers: of the API's network; dots: server → states of its clients, where they are known one by one. */
export function Tree({ servers, dots, chosen, onChoose }) {
  const nodes = ordered(servers);
  const leaves = nodes.filter(({ children }) => children.length === 0).length;
  const depth = Math.max(...nodes.map((node) => node.depth));
  if (leaves > WIDEST || depth > DEEPEST) return html`<${Branches} nodes=${nodes} chosen=${chosen} onChoose=${onChoose} />`;
  return html`<${Drawing} nodes=${nodes} leaves=${leaves} depth=${depth} dots=${dots} chosen=${chosen} onChoose=${onChoose} />`;
}

function Drawing({ nodes, leaves, depth, dots, chosen, onChoose }) {
  const column = BOX.width + BOX.gap;
  const width = Math.max(leaves * column, 320);
  const at = new Map();
  let next = (width - leaves * column) / 2 + column / 2;
  for (const { server, depth: level, children } of [...nodes].reverse()) {
    const under = children.map((child) => at.get(child.name).x);
    const x = under.length ? (Math.min(...under) + Math.max(...under)) / 2 : width - next;
    if (!under.length) next += column;
    at.set(server.name, { x, y: 12 + level * BOX.rise });
  }
  const states = (server) => {
    const known = dots?.get(server.name);
    if (known) return known;
    return Array.from({ length: server.clients }, () => "idle");
  };
  const crowd = (server) => {
    const all = states(server);
    const each = Math.max(1, Math.ceil(all.length / MOST_DOTS));
    return { all, each, shown: all.filter((_, k) => k % each === 0) };
  };
  const tallest = Math.max(0, ...nodes.map(({ server }) => Math.ceil(crowd(server).shown.length / PER_ROW)));
  const height = 12 + depth * BOX.rise + BOX.height + (tallest ? 30 + tallest * 13 : 8);
  const scale = Math.min(1, 1); // one unit is one pixel where there is room
  return html`<svg class="graph" viewBox="0 0 ${width} ${height}" style=${{ maxWidth: `${width * 1.25 * scale}px`, margin: "0 auto" }} role="group" aria-label="Aggregation tree">
    ${nodes.filter(({ server }) => server.parent).map(({ server }) => {
      const from = at.get(at.has(server.parent) ? server.parent : "root");
      const here = at.get(server.name);
      const middle = (from.y + BOX.height + here.y) / 2;
      return html`<path key=${server.name} class="edge ${server.connected ? "" : "off"}" d="M${from.x} ${from.y + BOX.height}C${from.x} ${middle} ${here.x} ${middle} ${here.x} ${here.y}" />`;
    })}
    ${nodes.map(({ server, children }) => {
      const { x, y } = at.get(server.name);
      const { shown, all, each } = crowd(server);
      const choose = () => onChoose?.(chosen === server.name ? "" : server.name);
      const below = y + BOX.height;
      const left = x - ((Math.min(PER_ROW, shown.length) - 1) * 12.5) / 2;
      return html`<g key=${server.name}>
        <g role=${onChoose ? "button" : undefined} tabindex=${onChoose ? 0 : undefined} aria-pressed=${onChoose ? (chosen === server.name ? "true" : "false") : undefined}
          onClick=${choose} onKeyDown=${(event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), choose())}>
          <rect class="box ${chosen === server.name || server.name === "root" ? "chosen" : ""} ${server.connected ? "" : "off"}" x=${x - BOX.width / 2} y=${y} width=${BOX.width} height=${BOX.height} rx="9" />
          <text x=${x} y=${y + 19} text-anchor="middle">${server.connected ? "" : "▲ "}${clip(named(server))}</text>
          <text class="small" x=${x} y=${y + 34} text-anchor="middle">${server.connected ? plural(server.clients, "client") : "away"}</text>
        </g>
        ${shown.length > 0 && children.length === 0 && html`<line x1=${x} x2=${x} y1=${below} y2=${below + 20} stroke="var(--line-strong)" stroke-dasharray="2 3" />
        ${shown.map((state, k) => {
          const cx = left + (k % PER_ROW) * 12.5;
          const cy = below + 30 + Math.floor(k / PER_ROW) * 13;
          const colour = `var(--${own(COLOURS, state) ?? "grey"})`;
          return state === "idle"
            ? html`<circle cx=${cx} cy=${cy} r="3.6" fill="none" stroke=${colour} stroke-width="1.4" />`
            : html`<circle cx=${cx} cy=${cy} r="4.2" fill=${colour} />`;
        })}
        ${each > 1 && html`<title>Each dot stands for ${each} of ${all.length} clients</title>`}`}
        ${shown.length > 0 && children.length > 0 && html`<text class="small" x=${x + BOX.width / 2 + 8} y=${y + 26}>and ${plural(server.clients, "client")} of its own</text>`}
      </g>`;
    })}
  </svg>`;
}

const clip = (text) => (text.length > 17 ? `${text.slice(0, 16)}…` : text);

/** A tree that is too wide or too deep to draw: a row for each server, set in by its depth. */
function Branches({ nodes, chosen, onChoose }) {
  const most = Math.max(1, ...nodes.map(({ server }) => server.clients));
  const columns = [
    { id: "name", label: "Server", show: ({ server, depth }) => html`<span style=${{ paddingLeft: `${18 * depth}px` }}>${onChoose
      ? html`<button class="button quiet small" aria-pressed=${chosen === server.name} onClick=${() => onChoose(chosen === server.name ? "" : server.name)}>${named(server)}</button>`
      : html`<span class="name">${named(server)}</span>`}</span>` },
    { id: "status", label: "Status", show: ({ server }) => html`<${Status} state=${server.connected ? "connected" : "late"}>${server.connected ? "connected" : "away"}<//>` },
    { id: "children", label: "Combiners below", n: true, show: ({ children }) => count(children.length) },
    { id: "clients", label: "Clients", n: true, show: ({ server }) => count(server.clients) },
    { id: "load", label: "Load", show: ({ server }) => html`<progress max=${most} value=${server.clients} aria-label=${`Clients of ${named(server)}`} style=${{ width: "140px" }}></progress>` },
    { id: "seen", label: "Last seen", n: true, show: ({ server }) => (server.connected ? "now" : html`<${Ago} at=${server.last_seen} />`) },
  ];
  return html`<${Rows} columns=${columns} rows=${nodes} identify=${({ server }) => server.name} label="Servers of the aggregation tree" size=${50} />`;
}

export function Counts({ counts }) {
  return html`<ul class="counts">${counts.map(([state, n]) => html`<li key=${state}><span class="status"><${Glyph} state=${state} /><span>${state}</span></span><b>${count(n)}</b></li>`)}</ul>`;
}
