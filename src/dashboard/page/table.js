// Tables that can be sorted. A column has a key, a label, `show(cell, row)`, and for sorting `value(row)`.
// `number: true` aligns it to the right; `minor: true` hides it on narrow screens, `extra: true` on all but wide ones.

class Table {
  #columns;
  #key;
  #keyed = new Keyed();
  #rows = [];
  #sort;
  #body = element("tbody");
  #heads = new Map();
  #empty;

  constructor({ label, columns, key, sort, empty }) {
    this.#columns = columns;
    this.#key = key;
    this.#sort = sort;
    this.#empty = element("p", { class: "empty", hidden: "" }, empty ?? "none");
    const heads = columns.map((column) => {
      const head = element("th", { scope: "col", class: this.#class(column) });
      if (column.value) {
        const button = element("button", { type: "button" }, column.label);
        button.addEventListener("click", () => this.#sortBy(column));
        head.append(button);
        this.#heads.set(column.key, head);
      } else {
        head.append(element("span", { class: "quiet" }, column.label));
      }
      return head;
    });
    const table = element("table", { "aria-label": label },
      element("thead", {}, element("tr", {}, ...heads)), this.#body);
    this.scroll = element("div", { class: "scroll" }, table);
    this.element = element("div", {}, this.scroll, this.#empty);
    this.#markSort();
  }

  #class(column) {
    const classes = [column.number && "number", column.minor && "minor", column.extra && "extra", column.actions && "actions"];
    return classes.filter(Boolean).join(" ") || undefined;
  }

  #sortBy(column) {
    const isSame = this.#sort?.key === column.key;
    // Numbers are looked at from the largest on.
    const first = column.number ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    this.#sort = { key: column.key, order: isSame && this.#sort.order === first ? other : first };
    this.#markSort();
    this.#show();
  }

  #markSort() {
    for (const [key, head] of this.#heads) {
      setAttribute(head, "aria-sort", this.#sort?.key === key ? this.#sort.order : undefined);
    }
  }

  update(rows) {
    this.#rows = rows;
    this.#show();
  }

  #show() {
    const rows = this.#keyed.elements(this.#sorted(), this.#key, () => this.#make(), (made, row) => {
      this.#columns.forEach((column, index) => column.show(made.cells[index], row));
    });
    setChildren(this.#body, rows);
    this.#empty.hidden = rows.length > 0;
  }

  #make() {
    const cells = this.#columns.map((column) => {
      const attributes = { class: this.#class(column), scope: column.heads ? "row" : undefined };
      const cell = element(column.heads ? "th" : "td", attributes);
      column.make?.(cell);
      return cell;
    });
    return { cells, element: element("tr", {}, ...cells) };
  }

  #sorted() {
    const column = this.#columns.find((column) => column.key === this.#sort?.key);
    if (!column) return this.#rows;
    const direction = this.#sort.order === "ascending" ? 1 : -1;
    return [...this.#rows].sort((a, b) => direction * compare(column.value(a), column.value(b)));
  }
}

/** Numbers by size, texts by the alphabet. What is missing comes first. */
function compare(a, b) {
  if (a === b) return 0;
  if (a === undefined || a === null) return -1;
  if (b === undefined || b === null) return 1;
  return typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

/** A column of texts. */
const textColumn = (key, label, value, more = {}) =>
  ({ key, label, value, show: (cell, row) => setText(cell, String(value(row) ?? "–")), ...more });

/** A column of numbers, which `format` writes with their unit. */
const numberColumn = (key, label, value, format, more = {}) =>
  ({ key, label, value, number: true, show: (cell, row) => setText(cell, format(value(row))), ...more });

/** A column whose cells have a mark: `mark(row)` is its tone and its word. */
const markColumn = (key, label, mark, more = {}) => ({
  key,
  label,
  value: (row) => mark(row)[1],
  make: (cell) => cell.append(element("span")),
  show: (cell, row) => setMark(cell.firstChild, ...mark(row)),
  ...more,
});
