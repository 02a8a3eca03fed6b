// Elements from data. Text is only ever set as text; HTML comes from one place alone, `sanitised`.

export const find = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Nodes of HTML that the server has rendered and sanitised (rendering.py). Nothing else may come here. */
export const sanitised = (html) => [...new DOMParser().parseFromString(html, "text/html").body.childNodes];

/** Fill an element with a text: its rendered view where there is one and it is wanted, else the text itself. */
export function fill(node, { text, html }, raw) {
  const rendered = typeof html === "string" && !raw;
  node.classList.toggle("rendered", rendered);
  node.replaceChildren(...(rendered ? sanitised(html) : [text]));
}

let line = 0;

/** Say something to a screen reader; a non-breaking space in turns makes equal sentences be read again. */
export function announce(text) {
  line += 1;
  find("announce").textContent = text + (line % 2 ? "\u00a0" : "");
}
