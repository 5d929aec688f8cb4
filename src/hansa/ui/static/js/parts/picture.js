// A drawing of a page as an image: what it looks like stands in the page's stylesheet, which it leaves behind.
import { html } from "../html.js";
import { save } from "./acts.js";
import { Icon } from "./icon.js";

const SVG = "http://www.w3.org/2000/svg";
const LOOKS = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-family", "font-size", "font-weight", "text-anchor"];
const SCALE = 2; // pixels of the image for one of the drawing

/** A drawing that stands alone, on the ground of its card. */
function alone(drawing) {
  const { width, height } = drawing.viewBox.baseVal;
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", `0 0 ${width} ${height}`);
  made.setAttribute("width", String(SCALE * width));
  made.setAttribute("height", String(SCALE * height));
  const ground = document.createElementNS(SVG, "rect");
  ground.setAttribute("width", "100%");
  ground.setAttribute("height", "100%");
  ground.setAttribute("fill", getComputedStyle(drawing.closest(".card")).backgroundColor);
  made.append(...[...drawing.childNodes].map((one) => one.cloneNode(true)));
  const from = drawing.querySelectorAll("*");
  made.querySelectorAll("*").forEach((one, k) => {
    const look = getComputedStyle(from[k]);
    for (const name of LOOKS) one.setAttribute(name, look.getPropertyValue(name));
  });
  made.prepend(ground);
  return made;
}

async function picture(drawing, title) {
  const url = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(alone(drawing))], { type: "image/svg+xml" }));
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").drawImage(image, 0, 0);
  URL.revokeObjectURL(url);
  canvas.toBlob((blob) => save(`${title.toLowerCase().replaceAll(/\W+/g, "-")}.png`, blob));
}

/** A button that saves the drawing of its card; where there is none in it, no button is shown. */
export const SaveDrawing = ({ title }) => html`<button class="button small quiet icon-only of-drawing" aria-label=${`Save ${title} as an image`} title="Save as PNG"
  onClick=${(event) => picture(event.currentTarget.closest(".card").querySelector("svg.graph"), title)}><${Icon} name="photo" /></button>`;
