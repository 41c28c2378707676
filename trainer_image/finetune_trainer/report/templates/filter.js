const form = document.getElementById("filter");
const rows = [...document.querySelectorAll("#rows > details")];
const texts = rows.map((row) => row.textContent.toLowerCase());
const boxes = [...form.querySelectorAll("input[type=checkbox]")];
const told = form.querySelector("output");

function filter() {
  const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  const words = form.elements.words.value.toLowerCase();
  rows.forEach((row, place) => {
    row.hidden = !(wanted.has(row.dataset.outcome) && texts[place].includes(words));
  });
  told.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
filter();
