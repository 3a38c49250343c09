// Twenty slices, one by one: real or generated? The sentences for each number of right answers were computed with the page.
"use strict";

function play(root) {
  const { model_hash, slices, results } = JSON.parse(root.querySelector("script").textContent);
  const find = (name) => root.querySelector(name);
  const board = find(".play"), img = board.querySelector("img"), answers = [];

  function ask() {
    const text = `Slice ${answers.length + 1} of ${slices.length}`;
    find(".place").textContent = text;
    img.src = slices[answers.length].src;
    img.alt = text;
  }

  function answer(saidReal) {
    answers.push({ real: slices[answers.length].real, said_real: saidReal });
    if (answers.length < slices.length) {
      ask();
      find(".result").textContent = img.alt; // for those who hear the page
      return;
    }
    finish();
  }

  function finish() {
    const right = answers.filter(({ real, said_real }) => real === said_real).length;
    board.hidden = true;
    find(".result").textContent = results[right];
    find(".result").classList.add("said");
    answers.forEach(({ real, said_real }, n) => {
      const item = document.createElement("li"), small = new Image(96, 96), words = document.createElement("span");
      words.textContent = `${real === said_real ? "✔" : "✘"} ${real ? "real" : "generated"}`;
      small.src = slices[n].src;
      small.alt = "";
      item.append(small, words);
      find(".solved").append(item);
    });
    const text = JSON.stringify({ model_hash, answers }, null, 1);
    find(".save").href = `data:application/json,${encodeURIComponent(text)}`;
    find(".save").hidden = false;
    find(".result").focus();
  }

  const keys = { ArrowLeft: true, r: true, R: true, ArrowRight: false, g: false, G: false };
  board.addEventListener("click", ({ target }) => target.value && answer(target.value === "real"));
  board.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    answer(keys[event.key]);
  });
  find(".asleep").hidden = true;
  board.hidden = false;
  ask();
}

document.querySelectorAll(".quiz").forEach(play);
