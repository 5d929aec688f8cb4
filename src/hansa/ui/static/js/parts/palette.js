// ⌘K: go anywhere by typing a part of its name.
import { call, path, query } from "../api.js";
import { useApp } from "../context.js";
import { html, useEffect, useMemo, useRef, useState } from "../html.js";
import { go, to } from "../router.js";
import { ADMINISTERING, KEEPING, PAGES } from "./shell.js";

const MOST = 12;
const PAUSE = 150; // milliseconds of typing after which the server is asked

export function Palette({ onClose }) {
  const { me, project, can } = useApp();
  const dialog = useRef();
  const [text, type] = useState("");
  const [chosen, choose] = useState(0);
  const [sessions, keep] = useState([]);
  const [clients, find] = useState([]);
  useEffect(() => {
    dialog.current.showModal();
    if (!project) return;
    call(path`/projects/${project}/sessions?limit=200&sort=-created_at`).then(({ items }) => {
      keep(items.map((one) => ({ label: one.name, kind: `session ${one.id}`, address: to("p", project, "sessions", one.id) })));
    }, () => {});
  }, []);
  useEffect(() => {
    const stop = new AbortController();
    const asked = project && text && setTimeout(() => {
      call(path`/projects/${project}/clients` + query({ search: text, limit: MOST, sort: "name" }), { signal: stop.signal }).then(({ items }) => {
        find(items.map((one) => ({ label: one.name, kind: "client", address: to("p", project, "clients", one.name) })));
      }, () => {});
    }, PAUSE);
    return () => {
      clearTimeout(asked);
      stop.abort();
    };
  }, [text]);
  const places = useMemo(() => [
    ...(project ? PAGES.map(([id, label]) => ({ label, kind: "page", address: id ? to("p", project, id) : to("p", project) })) : []),
    ...(can("run") ? [{ label: "New session", kind: "action", address: to("p", project, "sessions", "new") }] : []),
    ...(can("admit_nodes") ? [{ label: "Join a client", kind: "action", address: to("p", project, "clients", "join") }] : []),
    ...(project ? KEEPING.filter(([, , , needs]) => can(needs)).map(([id, label]) => ({ label, kind: "page", address: to("p", project, id) })) : []),
    ...(me.admin ? ADMINISTERING.map(([id, label]) => ({ label, kind: "installation", address: to("admin", id) })) : []),
    ...Object.keys(me.roles).map((name) => ({ label: name, kind: "project", address: to("p", name) })),
    { label: "Account", kind: "page", address: to("account") },
  ], [me, project]);
  const wanted = text.toLowerCase();
  const shown = [...places, ...sessions, ...clients].filter(({ label, kind }) => `${label} ${kind}`.toLowerCase().includes(wanted)).slice(0, MOST);
  const leave = (address) => {
    onClose();
    if (address) go(address);
  };
  const pressed = (event) => {
    if (event.key === "ArrowDown") choose(Math.min(chosen + 1, shown.length - 1));
    else if (event.key === "ArrowUp") choose(Math.max(chosen - 1, 0));
    else if (event.key === "Enter") leave(shown[chosen]?.address);
    else return;
    event.preventDefault();
  };
  return html`<dialog class="palette" ref=${dialog} aria-label="Search everything" onCancel=${(event) => { event.preventDefault(); onClose(); }} onClick=${(event) => event.target === dialog.current && onClose()}>
    <input role="combobox" aria-expanded="true" aria-controls="places" aria-activedescendant=${shown.length ? `place-${chosen}` : undefined} aria-label="Where to" placeholder="Where to?"
      value=${text} onInput=${(event) => { type(event.target.value); choose(0); }} onKeyDown=${pressed} autofocus />
    <ul id="places" role="listbox" aria-label="Places">
      ${shown.map((one, k) => html`<li key=${one.address} id=${`place-${k}`} role="option" aria-selected=${k === chosen ? "true" : "false"} onClick=${() => leave(one.address)}>${one.label}<span>${one.kind}</span></li>`)}
    </ul>
  </dialog>`;
}
