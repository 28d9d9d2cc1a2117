// Making and changing elements. Texts become text nodes and nothing else, so what the server says, such as
// the name of a model, is never markup.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Sets the text of an element, and does nothing if it has that text. */
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function setAttribute(target, name, value) {
  if (value === undefined) target.removeAttribute(name);
  else if (target.getAttribute(name) !== value) target.setAttribute(name, value);
}

/**
 * Puts the children in this order. What stays in place is not touched, and the focus stays where it is. If the child
 * that has it goes, its part of the page gets it.
 */
function setChildren(parent, children) {
  const focused = document.activeElement;
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  if (focused === document.activeElement) return;
  const next = focused.isConnected ? focused : parent.closest("[tabindex]");
  next?.focus({ preventScroll: true });
}

/** Keeps one element for each key, so that an element stays the same while its row is there. */
class Keyed {
  #made = new Map();

  /** The elements of `items`, in their order. `make` makes one, `update` changes it to what an item says. */
  elements(items, key, make, update) {
    const last = this.#made;
    this.#made = new Map();
    return items.map((item) => {
      const name = key(item);
      const made = last.get(name) ?? make(item);
      this.#made.set(name, made);
      update(made, item);
      return made.element ?? made;
    });
  }
}

/** A word with a sign in front of it, so that its colour is not all that tells it from others. */
const SIGNS = { good: "●", warn: "▲", bad: "■", quiet: "○" };

function setMark(target, tone, word) {
  setAttribute(target, "class", `mark ${tone}`);
  setText(target, `${SIGNS[tone]} ${word}`);
}
