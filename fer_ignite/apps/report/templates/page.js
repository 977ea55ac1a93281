// Browsing the cells of the confusion matrix; pages without one have nothing to do.
(function () {
  "use strict";
  var matrix = document.getElementById("matrix");
  if (!matrix) return;
  var data = JSON.parse(document.getElementById("cell-data").textContent);
  var buttons = Array.prototype.slice.call(matrix.querySelectorAll("button"));
  var list = document.getElementById("cell-list");

  function element(tag, text, className) {
    var made = document.createElement(tag);
    if (text) made.textContent = text; // never as markup: names may hold anything
    if (className) made.className = className;
    return made;
  }

  function percent(share, digits) { return (100 * share).toFixed(digits) + " %"; }

  function card(face) {
    var item = element("li"), image = element("img"), note = element("p", "", "note");
    image.src = face.image;
    image.width = image.height = 96;
    image.alt = "Face labelled " + face.true + ", named " + face.guesses[0][0];
    var lines = [face.guesses.map(function (guess) { return guess[0] + " " + percent(guess[1], 0); }).join(", ")];
    if (face.votes) lines.push("FER+: " + face.votes);
    if (face.in_train) lines.push("occurs in train too");
    lines.forEach(function (line) { note.append(line, element("br")); });
    note.append(element("span", face.id, "id"));
    item.append(image, note);
    return item;
  }

  function show(button) {
    var places = button.dataset.cell.split("-"), truth = data.classes[places[0]], predicted = data.classes[places[1]];
    var faces = data.cells[button.dataset.cell] || [], total = data.counts[places[0]][places[1]];
    buttons.forEach(function (other) { other.setAttribute("aria-pressed", String(other === button)); });
    enter(button);
    var right = places[0] === places[1];
    document.getElementById("cell-title").textContent = right ? truth + ", recognised" : truth + ", predicted as " + predicted;
    document.getElementById("cell-note").textContent = total + (total === 1 ? " face" : " faces") +
      (faces.length < total ? ", the surest " + faces.length + " shown" : "") + ", surest first.";
    list.replaceChildren.apply(list, faces.map(card));
    document.getElementById("cell-faces").hidden = false;
  }

  // One stop for the Tab key; arrows move within.
  function enter(button) {
    buttons.forEach(function (other) { other.tabIndex = other === button ? 0 : -1; });
  }

  function neighbour(button, across, down) {
    var places = button.dataset.cell.split("-").map(Number), size = data.classes.length;
    for (var i = places[0] + down, j = places[1] + across; i >= 0 && j >= 0 && i < size && j < size; i += down, j += across) {
      var found = matrix.querySelector('button[data-cell="' + i + "-" + j + '"]');
      if (found) return found;
    }
    return null;
  }

  var steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  matrix.addEventListener("keydown", function (event) {
    var step = steps[event.key], button = event.target.closest("button");
    if (!step || !button) return;
    event.preventDefault();
    var next = neighbour(button, step[0], step[1]);
    if (next) { enter(next); next.focus(); }
  });
  matrix.addEventListener("click", function (event) {
    var button = event.target.closest("button");
    if (button) show(button);
  });

  // The fullest wrong cell first.
  function weight(button) {
    var places = button.dataset.cell.split("-");
    return places[0] === places[1] ? -1 : data.counts[places[0]][places[1]];
  }
  if (buttons.length) show(buttons.reduce(function (best, other) { return weight(other) > weight(best) ? other : best; }));
})();
