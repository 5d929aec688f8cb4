// What people do: ask before what cannot be undone, say what was done, copy, and save files.
import { html, render, useEffect, useRef, useState } from "../html.js";
import { Icon } from "./icon.js";

/** Say something that passes. undo: {label, act} */
export function toast(text, undo) {
  const place = document.getElementById("toasts");
  if (!place) return;
  const item = document.createElement("div");
  item.className = "toast";
  place.append(item);
  const gone = () => item.remove();
  render(html`<span>${text}</span>${undo && html`<button class="button small" onClick=${() => { undo.act(); gone(); }}>${undo.label}</button>`}`, item);
  setTimeout(gone, 8000);
}

/** A dialog that is open while it is shown. */
export function Dialog({ title, onClose, children, footer }) {
  const dialog = useRef();
  useEffect(() => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    dialog.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${dialog} aria-label=${title} onCancel=${(event) => { event.preventDefault(); onClose(); }}>
    <div class="inner"><h2>${title}</h2>${children}${footer && html`<footer>${footer}</footer>`}</div>
  </dialog>`;
}

/**
 * A button that does something on the server, and says how it went.
 * confirm: {title, text, act, word}: what is asked first; word: what must be typed for what cannot be undone.
 */
export function Act({ children, act, done, confirm, className = "", icon, disabled, undo }) {
  const [asking, ask] = useState(false);
  const [busy, work] = useState(false);
  const [typed, type] = useState("");
  const run = async () => {
    ask(false);
    type("");
    work(true);
    try {
      const made = await act();
      if (done) toast(typeof done === "function" ? done(made) : done, undo);
    } catch (error) {
      toast(error.message);
    } finally {
      work(false);
    }
  };
  return html`<button class="button ${className}" disabled=${disabled || busy} onClick=${() => (confirm ? ask(true) : run())}>
      ${icon && html`<${Icon} name=${icon} />`}${children}
    </button>
    ${asking && html`<${Dialog} title=${confirm.title} onClose=${() => ask(false)} footer=${html`
        <button class="button" onClick=${() => ask(false)}>Cancel</button>
        <button class="button primary danger" disabled=${confirm.word && typed !== confirm.word} onClick=${run}>${confirm.act}</button>`}>
      <p>${confirm.text}</p>
      ${confirm.word && html`<label class="field"><span>Type <code>${confirm.word}</code> to confirm</span>
        <input value=${typed} onInput=${(event) => type(event.target.value)} autocomplete="off" spellcheck="false" /></label>`}
    <//>`}`;
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** Text to copy: a command, a token, a digest. */
export function Command({ text, label = "Copy" }) {
  const [done, set] = useState(false);
  return html`<div class="command"><pre>${text}</pre>
    <button class="button small icon-only" aria-label=${done ? "Copied" : label} title=${label}
      onClick=${async () => { await copy(text); set(true); setTimeout(() => set(false), 2000); }}><${Icon} name=${done ? "check" : "copy"} /></button>
  </div>`;
}

/** Have the browser save a file. */
export function save(name, content, type = "text/plain") {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Rows as CSV (RFC 4180). What a spreadsheet would take for a formula is written as text. */
export function csv(columns, rows) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r\n＝＋－＠]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}
