// A state is a glyph, a word and a colour: no two of them alone.
import { html, useMemo } from "../html.js";
import { ago, iso, moment, own } from "../format.js";
import { useNow } from "../data.js";

const GLYPHS = {
  dot: html`<circle cx="6" cy="6" r="4.5" fill="currentColor" />`,
  ring: html`<circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" stroke-width="1.5" />`,
  half: html`<circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" stroke-width="1.5" /><path d="M6 2a4 4 0 0 0 0 8z" fill="currentColor" />`,
  check: html`<path d="M2 6.5 5 9.5 10 3" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" />`,
  cross: html`<path d="M3 3l6 6M9 3l-6 6" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" />`,
  dash: html`<path d="M2.5 6h7" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" />`,
  square: html`<rect x="2.5" y="2.5" width="7" height="7" rx="1" fill="currentColor" />`,
  triangle: html`<path d="M6 1.5 11 10.5H1z" fill="currentColor" />`,
};

const STATES = {
  created: ["ring", "grey"], running: ["dot", "blue"], finished: ["check", "green"], failed: ["cross", "red"], stopped: ["square", "yellow"],
  accepted: ["check", "green"], rejected: ["cross", "red"], missing: ["dash", "yellow"],
  connected: ["dot", "green"], offline: ["dash", "grey"], revoked: ["cross", "red"], training: ["dot", "blue"], evaluating: ["half", "purple"],
  waiting: ["half", "purple"], idle: ["ring", "grey"], done: ["check", "green"], refused: ["cross", "red"], active: ["dot", "green"], disabled: ["cross", "grey"],
  expired: ["dash", "grey"], used: ["check", "grey"], late: ["triangle", "yellow"], kept: ["check", "green"], pruned: ["dash", "grey"],
};

export function Glyph({ state }) {
  const [shape, colour] = own(STATES, state) ?? ["ring", "grey"];
  return html`<svg class="glyph c-${colour}" viewBox="0 0 12 12" aria-hidden="true">${GLYPHS[shape]}</svg>`;
}

export const Status = ({ state, children }) => html`<span class="status"><${Glyph} state=${state} /><span>${children ?? state}</span></span>`;

export const Pill = ({ state, children }) => html`<span class="pill"><${Status} state=${state}>${children}<//></span>`;

/** How long ago, and on hover when. */
export function Ago({ at }) {
  const now = useNow(at && Date.now() / 1000 - at < 120 ? 1000 : 15000);
  const [read, whole] = useMemo(() => (at ? [iso(at), moment(at)] : []), [at]);
  return at ? html`<time dateTime=${read} title=${whole}>${ago(at, now)}</time>` : "—";
}
