"use strict";
// The rows are there; this sorts and hides them, and writes nothing that a device said.
const body = document.querySelector("tbody");
const heads = [...document.querySelectorAll("thead th")];
const levels = [...document.querySelectorAll("#levels button")];
const filter = document.querySelector("#filter");
const order = new Intl.Collator("en", { numeric: true });
const rows = [...body.rows].map((row) => ({
  row,
  level: row.dataset.level,
  text: row.textContent.toLowerCase(),
  keys: [...row.cells].map((cell) => cell.dataset.sort),
}));

function compare(column, kind, sign) {
  return (one, other) => {
    const [a, b] = [one.keys[column], other.keys[column]];
    // What a device does not tell is last, whichever way.
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * (kind === "number" ? a - b : order.compare(a, b));
  };
}

heads.forEach((head, column) =>
  head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const each of heads) each.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort(compare(column, head.dataset.kind, down ? -1 : 1));
    body.append(...rows.map(({ row }) => row));
  }),
);

function show() {
  const words = filter.value.toLowerCase().split(/\s+/);
  const chosen = levels.filter((each) => each.ariaPressed === "true").map((each) => each.dataset.level);
  let shown = 0;
  for (const { row, level, text } of rows) {
    row.hidden = (chosen.length && !chosen.includes(level)) || !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  document.querySelector("#shown").textContent = `${shown} of ${rows.length} devices`;
}

filter.addEventListener("input", show);
for (const each of levels)
  each.addEventListener("click", () => {
    each.ariaPressed = each.ariaPressed !== "true";
    show();
  });
