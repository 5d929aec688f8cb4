// Addresses: every page has one, and the browser's back button works.
import { useEffect, useState } from "./html.js";

export const ROOT = "/ui/";

/** The address of a page from its parts, each of which may hold any character. */
export const to = (...parts) => ROOT + parts.map((part) => encodeURIComponent(part)).join("/");

/** Go to a page. replace: put it in the place of this one. */
export function go(address, { replace = false } = {}) {
  if (address === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  dispatchEvent(new PopStateEvent("popstate"));
}

/** Change what stands after the "?" of this page's address. */
export function setQuery(changes) {
  const params = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "" || value === undefined) params.delete(name);
    else params.set(name, value);
  }
  const text = params.toString();
  go(location.pathname + (text ? `?${text}` : ""), { replace: true });
}

/** A part of an address as it was written; as it stands, where nobody can have written it so. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const read = () => ({
  parts: location.pathname.slice(ROOT.length).split("/").filter(Boolean).map(decoded),
  query: Object.fromEntries(new URLSearchParams(location.search)),
});

/** {parts, query} of the address. */
export function useRoute() {
  const [route, set] = useState(read);
  useEffect(() => {
    const changed = () => set(read());
    addEventListener("popstate", changed);
    return () => removeEventListener("popstate", changed);
  }, []);
  return route;
}

/** Links of the Studio are followed without loading the page again. */
export function followLinks() {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const path = /** @type {Element[]} */ (event.composedPath());
    const link = /** @type {HTMLAnchorElement | undefined} */ (path.find((node) => node.localName === "a"));
    if (!link || !link.hasAttribute("href") || link.target || link.hasAttribute("download")) return;
    const url = new URL(link.getAttribute("href") ?? "", location.href);
    if (url.origin !== location.origin || !url.pathname.startsWith(ROOT)) return;
    event.preventDefault();
    go(url.pathname + url.search);
  });
}
