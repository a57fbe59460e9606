// Finds layers by name. The page is complete without it: all layers can be opened by hand.
const box = document.getElementById("find");
if (box) {
  const rows = [...document.querySelectorAll("table.layers tbody tr")];
  box.closest("[hidden]").hidden = false;
  box.addEventListener("input", () => {
    const wanted = box.value.trim().toLowerCase();
    let hits = 0;
    for (const row of rows) {
      const hit = row.cells[0].textContent.toLowerCase().includes(wanted);
      row.hidden = !hit;
      hits += hit;
    }
    for (const stage of document.querySelectorAll("details.stage:has(table.layers)")) {
      const found = stage.querySelector("tbody tr:not([hidden])");
      stage.hidden = !found;
      stage.open = wanted !== "" && found !== null;
    }
    document.getElementById("hits").textContent = wanted === "" ? "" : `${hits} of ${rows.length} layers`;
  });
}
