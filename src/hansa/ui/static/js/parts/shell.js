// What is around every page: where one can go, where one is, and whether what is shown is live.
import { call } from "../api.js";
import { useApp } from "../context.js";
import { useNow } from "../data.js";
import { own, span, time } from "../format.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { go, to } from "../router.js";
import { drop, useConnection } from "../stream.js";
import { Icon } from "./icon.js";
import { Palette } from "./palette.js";

export const PAGES = [
  ["", "Overview", "home", "read"],
  ["sessions", "Sessions", "player-play", "read"],
  ["models", "Models", "cube", "read"],
  ["network", "Network", "sitemap", "read"],
  ["clients", "Clients", "device-desktop", "read"],
  ["events", "Events", "list", "read"],
];
export const KEEPING = [
  ["packages", "Packages", "package", "read"],
  ["members", "Members", "users", "read"],
  ["tokens", "Tokens", "key", "own_tokens"],
  ["audit", "Audit", "shield-lock", "audit"],
  ["settings", "Settings", "settings", "read"],
];
export const ADMINISTERING = [["users", "Users", "user"], ["system", "System", "server"], ["audit", "Installation audit", "history"]];

export function Shell({ nav, route, children }) {
  const { me, project } = useApp();
  const [open, setOpen] = useState(false);
  const [asking, ask] = useState(false);
  const main = useRef();
  const first = useRef(true);

  useEffect(() => setOpen(false), [route]);
  useEffect(() => {
    if (!first.current) {
      main.current?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
    first.current = false;
  }, [route.parts.join("/")]);
  useEffect(() => {
    const pressed = (event) => {
      const typing = event.target.closest?.("input, textarea, select, dialog");
      if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        ask(true);
      } else if (event.key === "/" && !typing && !event.metaKey && !event.ctrlKey) {
        const field = main.current?.querySelector("input[type=search]");
        if (field) {
          event.preventDefault();
          field.focus();
        }
      } else if (event.key === "Escape" && !typing) setOpen(false);
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);

  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>Go to the content</a>
  <div class="shell">
    ${open && html`<button class="scrim" aria-label="Close the menu" onClick=${() => setOpen(false)}></button>`}
    <${Side} nav=${nav} open=${open} />
    <div class="main">
      <header class="top">
        <button class="button quiet icon-only menu-button" aria-label="Menu" aria-expanded=${open} onClick=${() => setOpen(!open)}><${Icon} name="menu-2" /></button>
        <${Crumbs} route=${route} />
        <div class="tools">
          ${project && html`<${Live} />`}
          <button class="button quiet icon-only" aria-label="Search everything" title="Search everything (Ctrl K)" onClick=${() => ask(true)}><${Icon} name="search" /></button>
          <${Theme} />
          <a class="button quiet icon-only" href=${to("account")} aria-label=${`Account of ${me.name}`} title=${me.name}><${Icon} name="user" /></a>
        </div>
      </header>
      ${project && html`<${Lost} />`}
      <main id="main" ref=${main} tabindex="-1">${children}</main>
    </div>
  </div>
  ${asking && html`<${Palette} onClose=${() => ask(false)} />`}`;
}

function Side({ nav, open }) {
  const { me, project, can } = useApp();
  const link = (/** @type {string} */ section, /** @type {string[]} */ [id, label, icon]) => {
    const here = nav === `${section}/${id}`;
    const address = section === "p" ? (id ? to("p", project, id) : to("p", project)) : to("admin", id);
    return html`<a key=${id} href=${address} aria-current=${here ? "page" : undefined}><${Icon} name=${icon} />${label}</a>`;
  };
  const kept = KEEPING.filter(([, , , needs]) => can(needs));
  return html`<aside class="side" data-open=${open || undefined} aria-label="Main menu">
    <a class="brand" href=${to()}><img src=${new URL("../../icon.svg", import.meta.url).href} alt="" />hansa <span>Studio</span></a>
    ${project && html`<div class="project">
      <select aria-label="Project" value=${project} onChange=${(event) => go(event.target.value === "+" ? to("projects", "new") : to("p", event.target.value))}>
        ${[...new Set([project, ...Object.keys(me.roles)])].map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
        ${me.admin && html`<option value="+">New project …</option>`}
      </select><${Icon} name="chevron-down" />
    </div>`}
    <nav class="nav" aria-label="Pages">
      ${project && PAGES.map((page) => link("p", page))}
      ${project && kept.length > 0 && html`<h2>Project</h2>`}
      ${project && kept.map((page) => link("p", page))}
      ${me.admin && html`<h2>Installation</h2>`}
      ${me.admin && ADMINISTERING.map((page) => link("admin", page))}
    </nav>
    <footer>hansa ${/** @type {HTMLMetaElement} */ (document.querySelector("meta[name=version]")).content}</footer>
  </aside>`;
}

const NAMES = { p: null, admin: "Installation", new: "New", account: "Account", projects: "Projects" };

function Crumbs({ route }) {
  const parts = route.parts[0] === "p" ? route.parts.slice(2) : route.parts;
  const base = route.parts[0] === "p" ? ["p", route.parts[1]] : [];
  const all = parts.length ? parts : ["Overview"];
  const label = (part) => own(NAMES, part) ?? (/^[0-9a-f]{64}$/.test(part) ? part.slice(0, 10) : part[0].toUpperCase() + part.slice(1));
  return html`<nav class="crumbs" aria-label="Where you are"><ol>
    ${all.map((part, k) => html`<li key=${k}>${k === all.length - 1 || (base.length === 0 && k === 0)
      ? html`<span aria-current=${k === all.length - 1 ? "page" : undefined}>${k ? (/^[0-9a-f]{64}$/.test(part) ? part.slice(0, 10) : part) : label(part)}</span>`
      : html`<a href=${to(...base, ...all.slice(0, k + 1))}>${label(part)}</a>`}</li>`)}
  </ol></nav>`;
}

const WORDS = { live: "Live", connecting: "Connecting", lost: "Lost" };

function Live() {
  const connection = useConnection();
  const now = useNow(5000);
  const heard = span(Math.max(0, now - connection.heard / 1000));
  return html`<span class="live" data-state=${connection.state} title=${`Something was heard from the server ${heard} ago`}><span>${WORDS[connection.state]}</span></span>`;
}

function Lost() {
  const connection = useConnection();
  const now = useNow();
  if (connection.state !== "lost" || now - connection.since / 1000 < 1.5) return null;
  return html`<div class="banner" role="status"><${Icon} name="wifi-off" />
    <span>The connection to the server was lost ${span(now - connection.since / 1000)} ago. What you see is as of ${time(connection.since / 1000)}; it goes on by itself, and nothing is missed.</span>
  </div>`;
}

function Theme() {
  const [theme, set] = useState(document.documentElement.dataset.theme);
  const turn = () => {
    const next = theme === "dark" ? "light" : "dark";
    localStorage.setItem("hansa.theme", next);
    document.documentElement.dataset.theme = next;
    set(next);
    dispatchEvent(new CustomEvent("hansa:theme"));
  };
  return html`<button class="button quiet icon-only" aria-label=${theme === "dark" ? "Light theme" : "Dark theme"} title=${theme === "dark" ? "Light theme" : "Dark theme"} onClick=${turn}><${Icon} name=${theme === "dark" ? "sun" : "moon"} /></button>`;
}

/** The theme that is shown, for what is painted on a canvas. */
export function useTheme() {
  const [theme, set] = useState(document.documentElement.dataset.theme);
  useEffect(() => {
    const changed = () => set(document.documentElement.dataset.theme);
    addEventListener("hansa:theme", changed);
    return () => removeEventListener("hansa:theme", changed);
  }, []);
  return theme;
}

export async function signOut() {
  drop();
  await call("/logout", { method: "POST" }).catch(() => {});
  dispatchEvent(new CustomEvent("hansa:signed-out"));
  go(to());
}
