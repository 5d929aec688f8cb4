// A table: sorted and paged by the server or here, saved as CSV, read aloud as a table.
import { html, render, useEffect, useMemo, useState } from "../html.js";
import { call, query } from "../api.js";
import { useResource } from "../data.js";
import { count } from "../format.js";
import { csv, save } from "./acts.js";
import { Icon } from "./icon.js";
import { Empty, Failure, SkeletonRows } from "./states.js";

/** A search field; "/" puts the cursor into the first of a page. */
export function Search({ value, onChange, label }) {
  return html`<span class="search"><${Icon} name="search" />
    <input class="input" type="search" placeholder=${label} aria-label=${label} value=${value} onInput=${(event) => onChange(event.target.value)} />
  </span>`;
}

export const Choose = ({ label, value, onChange, options }) => html`<select class="input inline" aria-label=${label} value=${value} onChange=${(event) => onChange(event.target.value)}>
  ${options.map(([id, text]) => html`<option key=${id} value=${id}>${text}</option>`)}
</select>`;

function Heads({ columns, sort, onSort }) {
  return html`<thead><tr>
    ${columns.map((column) => {
      const up = sort === column.sort;
      const down = sort === `-${column.sort}`;
      const order = column.sort ? (up ? "ascending" : down ? "descending" : "none") : undefined;
      return html`<th key=${column.id} scope="col" class=${column.n ? "n" : ""} aria-sort=${order}>
        ${column.sort && onSort
          ? html`<button onClick=${() => onSort(up ? `-${column.sort}` : column.sort)}>${column.label}<span aria-hidden="true">${up ? "↑" : down ? "↓" : ""}</span></button>`
          : column.label || html`<span class="visually-hidden">${column.name ?? "Actions"}</span>`}
      </th>`;
    })}
  </tr></thead>`;
}

const body = (columns, rows, identify) => rows.map((row) => html`<tr key=${identify(row)}>
  ${columns.map((column) => html`<td key=${column.id} class="${column.n ? "n" : ""} ${column.clip ? "clip" : ""}">${column.show(row)}</td>`)}
</tr>`);

/** Rows that are here already. columns: {id, label, show(row), n, sort, value(row)}; identify: what tells a row from others; saved: whether they can be saved elsewhere. */
export function Rows({ columns, rows, identify = (row) => row.id, empty, label, sort: first = "", size = 50, saved = false }) {
  const [sort, setSort] = useState(first);
  const [page, setPage] = useState(0);
  const shown = useMemo(() => {
    const by = columns.find((column) => column.sort === sort.replace(/^-/, ""));
    if (!by) return rows;
    const sign = sort.startsWith("-") ? -1 : 1;
    const value = by.value ?? ((row) => row[by.sort]);
    const order = (a, b) => (a === null || a === undefined ? 1 : b === null || b === undefined ? -1 : a < b ? -sign : a > b ? sign : 0);
    return [...rows].sort((a, b) => order(value(a), value(b)));
  }, [rows, sort, columns]);
  const pages = Math.max(1, Math.ceil(shown.length / size));
  const at = Math.min(page, pages - 1);
  if (!rows.length && empty) return empty;
  return html`${!saved && html`<${Save} label=${label} columns=${columns} fetch=${async () => shown} />`}<div class="scroll" tabindex="0" role="region" aria-label=${label}><table>
    <caption class="visually-hidden">${label}</caption>
    <${Heads} columns=${columns} sort=${sort} onSort=${setSort} />
    <tbody>${body(columns, shown.slice(at * size, (at + 1) * size), identify)}</tbody>
  </table></div>
  ${pages > 1 && html`<${Pager} from=${at * size} size=${size} total=${shown.length} onPage=${(to) => setPage(to / size)} />`}`;
}

function Pager({ from, size, total, onPage }) {
  return html`<div class="pager"><span class="number">${count(from + 1)}–${count(Math.min(total, from + size))} of ${count(total)}</span>
    <button class="button small" disabled=${from === 0} onClick=${() => onPage(Math.max(0, from - size))}>Previous</button>
    <button class="button small" disabled=${from + size >= total} onClick=${() => onPage(from + size)}>Next</button>
  </div>`;
}

/** A list of the server, page by page. path: its route; filter: query values; on: the events that change it. */
export function List({ path, filter = {}, columns, on, empty, label, size = 25, sort: first = "", every, identify = (row) => row.id, onTotal, saved = false }) {
  const [sort, setSort] = useState(first);
  const [offset, setOffset] = useState(0);
  const wanted = JSON.stringify(filter);
  useEffect(() => setOffset(0), [wanted, path]);
  const found = useResource(`${path}${query({ ...filter, sort: sort || null, limit: size, offset })}`, { on, every });
  const [kept, keep] = useState(null); // the last page, so that nothing jumps while the next is read
  useEffect(() => {
    if (found.data) {
      keep(found.data);
      onTotal?.(found.data.total);
    }
  }, [found.data]);
  const data = found.data ?? (found.error ? null : kept);
  if (found.error && !data) return html`<${Failure} error=${found.error} retry=${found.reload} />`;
  if (data && data.total === 0) return empty ?? html`<${Empty} title="Nothing here" />`;
  const all = () => everything(path, { ...filter, sort: sort || null });
  return html`${!saved && html`<${Save} label=${label} columns=${columns} fetch=${all} />`}<div class="scroll" tabindex="0" role="region" aria-label=${label} aria-busy=${!data}><table>
    <caption class="visually-hidden">${label}</caption>
    <${Heads} columns=${columns} sort=${sort} onSort=${(by) => { setSort(by); setOffset(0); }} />
    <tbody>${data ? body(columns, data.items, identify) : html`<${SkeletonRows} columns=${columns.length} />`}</tbody>
  </table></div>
  ${data && data.total > size && html`<${Pager} from=${offset} size=${size} total=${data.total} onPage=${setOffset} />`}`;
}

/** Everything on a list of the server, up to 100,000 rows. */
export async function everything(path, filter = {}) {
  const rows = [];
  for (let offset = 0; offset < 100000; offset += 1000) {
    const page = await call(`${path}${query({ ...filter, limit: 1000, offset })}`);
    rows.push(...page.items);
    if (rows.length >= page.total || !page.items.length) break;
  }
  return rows;
}

/** What a cell says: a time as machines write it, else what it is sorted by, else its text. */
function said(column, row) {
  const cell = document.createElement("div");
  render(html`${column.show(row)}`, cell);
  const time = cell.querySelector("time")?.dateTime;
  const text = cell.textContent;
  render(null, cell);
  const value = column.value?.(row) ?? row[column.sort];
  return time ?? (typeof value === "number" || typeof value === "string" ? value : text);
}

/** A table as it stands here, in the corner of its card. */
function Save({ label, columns, fetch }) {
  const told = columns.filter((column) => column.label);
  return html`<div class="saver"><${SaveList} name=${label.toLowerCase().replaceAll(/\W+/g, "-")} label=${`Save ${label} as CSV`} fetch=${fetch} columns=${told.map((column) => [column.label, (row) => said(column, row)])} /></div>`;
}

/** Save a whole list of the server as CSV, up to 100,000 rows. */
/** @param {{name: string, fetch: () => Promise<any[]>, columns: any[], label?: string}} given */
export function SaveList({ name, fetch, columns, label }) {
  const [busy, work] = useState(false);
  const run = async () => {
    work(true);
    try {
      const rows = await fetch();
      save(`${name}.csv`, csv(columns.map(([head]) => head), rows.map((row) => columns.map(([, value]) => value(row)))), "text/csv");
    } finally {
      work(false);
    }
  };
  return html`<button class="button small quiet" disabled=${busy} onClick=${run} aria-label=${label} title="Save the table as CSV"><${Icon} name="download" />CSV</button>`;
}
