"use strict";
// Decisions are kept in the browser as they are made, under a name that only this page has, and saved as decisions.csv.
const page = "cellseg review " + document.body.dataset.page;
const places = [...document.querySelectorAll("figure[data-id]")];
const person = document.getElementById("person");
const keys = { c: "cell", n: "no cell", u: "unsure" };
let kept = { person: "", decisions: {} };
try {
  kept = JSON.parse(localStorage.getItem(page)) || kept;
} catch {
  document.getElementById("lost").hidden = false; // without storage, decisions last until the page is closed
}

function show() {
  for (const place of places) {
    const decision = kept.decisions[place.dataset.id];
    for (const button of place.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.value === decision));
    }
  }
  document.getElementById("decided").textContent = `${Object.keys(kept.decisions).length} of ${places.length} decided`;
  person.value = kept.person;
  try {
    localStorage.setItem(page, JSON.stringify(kept));
  } catch {
    document.getElementById("lost").hidden = false;
  }
}

function decide(place, decision) {
  if (kept.decisions[place.dataset.id] === decision) {
    delete kept.decisions[place.dataset.id];
  } else {
    kept.decisions[place.dataset.id] = decision;
  }
  show();
}

function move(place, by) {
  const next = places[places.indexOf(place) + by];
  if (next) {
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }
}

for (const place of places) {
  for (const button of place.querySelectorAll("button")) {
    button.addEventListener("click", () => decide(place, button.value));
  }
}

document.addEventListener("keydown", (event) => {
  const place = event.target.closest("figure[data-id]");
  if (event.target === person || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!place) {
    if (event.key in keys || event.key.startsWith("Arrow")) places[0]?.focus();
    return;
  }
  if (event.key in keys) {
    decide(place, keys[event.key]);
    if (kept.decisions[place.dataset.id]) move(place, 1);
  } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
    move(place, event.key === "ArrowRight" ? 1 : -1);
    event.preventDefault();
  }
});

person.addEventListener("input", () => {
  kept.person = person.value;
  show();
});

const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;

document.getElementById("save").addEventListener("click", () => {
  const rows = places.map(({ dataset }) => [
    dataset.image,
    dataset.id,
    kept.decisions[dataset.id] || "",
    kept.person,
    dataset.outline,
  ]);
  const lines = [["image", "id", "decision", "person", "outline"], ...rows].map((row) => row.map(quoted).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
});

show();
