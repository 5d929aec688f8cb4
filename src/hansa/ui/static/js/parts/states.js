// What stands in a page's place while it loads, where there is nothing, and where something went wrong.
import { html } from "../html.js";
import { Icon } from "./icon.js";

/** Nothing here yet, and what to do about it. */
export function Empty({ icon = "info-circle", title, children, actions, level = 2 }) {
  return html`<div class="empty">
    <${Icon} name=${icon} />
    ${level === 1 ? html`<h1>${title}</h1>` : html`<h2>${title}</h2>`}
    ${children && html`<p>${children}</p>`}
    ${actions && html`<div class="actions">${actions}</div>`}
  </div>`;
}

/** What went wrong, in its place, with a way to try again. */
export function Failure({ error, retry, level }) {
  if (error.status === 403) {
    return html`<${Empty} level=${level} icon="lock" title="This is not for your role">${error.message} Ask an owner of the project for it.<//>`;
  }
  if (error.status === 404) return html`<${Empty} level=${level} icon="search" title="There is no such thing">${error.message}<//>`;
  return html`<div role="alert">
    <${Empty} level=${level} icon="alert-triangle" title="Could not load this"
      actions=${html`<button class="button" onClick=${retry}><${Icon} name="refresh" />Try again</button>`}>${error.message}<//>
  </div>`;
}

/** Grey bars where text will be; widths differ as words do. */
export const Bar = ({ width = 90 }) => html`<span class="skeleton" style=${{ width: `${width}px` }}></span>`;

const WIDTHS = [120, 80, 96, 64, 110, 72];

/** The rows of a table that is on its way. */
export function SkeletonRows({ columns, rows = 6 }) {
  return Array.from({ length: rows }, (_, row) => html`<tr key=${row} aria-hidden="true">
    ${Array.from({ length: columns }, (__, column) => html`<td key=${column}><${Bar} width=${WIDTHS[(row + column) % WIDTHS.length]} /></td>`)}
  </tr>`);
}

/** A resource's state, or what is made of its data. skeleton: in the final layout. */
export function Loaded({ resource, skeleton = null, children, level }) {
  if (resource.error && !resource.data) return html`<${Failure} error=${resource.error} retry=${resource.reload} level=${level} />`;
  if (!resource.data) return html`<div aria-busy="true">${level === 1 && html`<h1 class="visually-hidden">Loading</h1>`}${skeleton}<span class="visually-hidden" role="status">Loading</span></div>`;
  return children(resource.data);
}
