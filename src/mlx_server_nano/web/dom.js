// Building and finding DOM nodes. Text is only ever set as text, never parsed as HTML.

/**
 * An element. Functions among the attributes are listeners (`onclick`), `true` sets an attribute without a value, `false`, null
 * and undefined leave it out. Children are nodes or texts; empty ones are skipped.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** One of the symbols in index.html. Decoration: what it stands for is said in words beside it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function iconButton(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "ghost", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

/** Changes a text only if it is another, so that nothing is laid out or read out anew for nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export async function copyText(text, button) {
  const old = button.getAttribute("aria-label");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Plain http other than loopback has no clipboard API.
    const area = h("textarea", { class: "hidden-text", readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.replaceChildren(icon("check"));
  button.setAttribute("aria-label", "Copied");
  setTimeout(() => {
    button.replaceChildren(icon("copy"));
    button.setAttribute("aria-label", old);
  }, 1500);
}
