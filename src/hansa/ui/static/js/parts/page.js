// A page's head, cards, figures, tabs: the order of every page is title, key figures, charts, detail.
import { html, useEffect } from "../html.js";
import { setQuery, useRoute } from "../router.js";
import { Icon } from "./icon.js";

/** Title, state and actions. */
export function Title({ title, state, children, actions }) {
  useEffect(() => {
    document.title = `${title} · hansa Studio`;
  }, [title]);
  return html`<div class="title">
    <div><div class="line"><h1>${title}</h1>${state}</div>${children && html`<p>${children}</p>`}</div>
    ${actions && html`<div class="actions">${actions}</div>`}
  </div>`;
}

export function Card({ title, note, right, children, level = 2 }) {
  const heading = level === 3 ? html`<h3>${title}</h3>` : html`<h2>${title}</h2>`;
  return html`<section class="card">
    ${title && html`<header>${heading}${note && html`<span class="note">${note}</span>`}${right && html`<div class="right">${right}</div>`}</header>`}
    ${children}
  </section>`;
}

/** Key figures. items: {label, value, unit, sub, progress (0 to 1)} */
export function Figures({ items }) {
  return html`<dl class="figures">
    ${items.map(({ label, value, unit, sub, progress }) => html`<div key=${label}>
      <dt>${label}</dt>
      <dd class="value">${value}${unit && html` <small>${unit}</small>`}</dd>
      ${progress !== undefined ? html`<dd><progress max="1" value=${progress} aria-label=${label}></progress></dd>` : html`<dd class="sub">${sub}</dd>`}
    </div>`)}
  </dl>`;
}

/** Tabs of a page; the one that is open stands in the address. items: {id, label, count} */
export function Tabs({ items, name = "tab", label }) {
  const { query } = useRoute();
  const open = items.some(({ id }) => id === query[name]) ? query[name] : items[0].id;
  return html`<nav class="tabs" aria-label=${label}>
    ${items.map(({ id, label: text, count }) => {
      const params = new URLSearchParams(location.search);
      params.set(name, id);
      return html`<a key=${id} href=${`${location.pathname}?${params}`} aria-current=${open === id ? "true" : undefined}
        onClick=${(event) => { event.preventDefault(); setQuery({ [name]: id }); }}>${text}${count !== undefined && html`<small class="number">${count}</small>`}</a>`;
    })}
  </nav>`;
}

export const useTab = (items, name = "tab") => {
  const { query } = useRoute();
  return items.some(({ id }) => id === query[name]) ? query[name] : items[0].id;
};

const NOTICES = { bad: "alert-triangle", warn: "alert-triangle", good: "check", info: "info-circle" };

export const Notice = ({ kind = "info", children, live }) => html`<div class="notice ${kind}" role=${live ? "status" : undefined}>
  <${Icon} name=${NOTICES[kind]} /><div class="wrap">${children}</div>
</div>`;
