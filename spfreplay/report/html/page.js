"use strict";
// Shows the state before and after the step that is chosen.  Text is only ever set
// as text: nothing that a trace says becomes part of the page's structure.
(() => {
  document.documentElement.classList.add("js");

  const make = (name, text, kind) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };

  class Play {
    constructor(root, name) {
      this.root = root;
      this.table = root.querySelector(".cpus");
      this.panel = root.querySelector(".state");
      this.rows = [...root.querySelectorAll("tr[data-step]")];
      this.name = name;
      this.chosen = null;
      const data = document.getElementById(name + "-state");
      this.data = data ? JSON.parse(data.textContent) : null;
      this.listen();
      const first = this.rows.find(row => row.matches(".decisive")) ||
        this.rows.find(row => row.matches(".found")) || this.rows[0];
      if (first) this.mark(first);
    }

    listen() {
      this.table.addEventListener("click", event => {
        const fold = event.target.closest(".fold");
        if (fold) return this.unfold(fold);
        const row = event.target.closest("tr[data-step]");
        if (row) this.choose(row);
      });
      this.table.addEventListener("keydown", event => {
        const moves = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 };
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        if (event.key in moves) this.move(moves[event.key]);
        else if (event.key === "Home") this.choose(this.visible()[0]);
        else if (event.key === "End") this.choose(this.visible().at(-1));
        else return;
        event.preventDefault();
      });
      const on = (name, action) => {
        const button = this.root.querySelector(name);
        if (button) button.addEventListener("click", action);
      };
      on(".everything", event => {
        const all = this.table.classList.toggle("all");
        event.currentTarget.setAttribute("aria-pressed", all);
        if (this.chosen) this.chosen.scrollIntoView({ block: "center" });
      });
      on(".back", () => this.move(-1));
      on(".on", () => this.move(1));
      on(".decide", () => {
        const pair = this.rows.filter(row => row.classList.contains("decisive"));
        this.choose(pair[(pair.indexOf(this.chosen) + 1) % pair.length]);
      });
    }

    visible() { return this.rows.filter(row => row.offsetParent !== null); }

    unfold(button) {
      const open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", open);
      let row = button.closest("tr").nextElementSibling;
      while (row && row.classList.contains("minor")) {
        row.classList.toggle("open", open);
        row = row.nextElementSibling;
      }
    }

    move(by) {
      const rows = this.visible();
      const now = rows.indexOf(this.chosen);
      const row = rows[Math.max(0, Math.min(rows.length - 1, now + by))];
      if (row) this.choose(row);
    }

    // One step of the table can be reached by Tab, the others from there by arrows.
    rove(row) {
      if (this.tabbed) this.tabbed.querySelector(".step").tabIndex = -1;
      this.tabbed = row;
      row.querySelector(".step").tabIndex = 0;
    }

    // Marks a step and shows its state; choosing one also goes there and names it in the address.
    mark(row) {
      if (this.chosen) {
        this.chosen.classList.remove("chosen");
        this.chosen.querySelector(".step").removeAttribute("aria-current");
      }
      this.chosen = row;
      if (row.classList.contains("minor")) row.classList.add("open");
      row.classList.add("chosen");
      row.querySelector(".step").setAttribute("aria-current", "step");
      this.rove(row);
      if (this.data) this.show(Number(row.dataset.step));
    }

    choose(row, block = "nearest") {
      this.mark(row);
      row.querySelector(".step").focus({ preventScroll: true });
      row.scrollIntoView({ block });
      history.replaceState(null, "", "#" + this.name + "s" + row.dataset.step);
    }

    show(number) {
      const { cells, before, first, steps, threads, sources } = this.data;
      const state = before.slice();
      const index = number - first;
      for (const step of steps.slice(0, index)) for (const [cell, value] of step[5]) state[cell] = value;
      const [, thread, func, what, findings, changes] = steps[index];
      const after = new Map(changes);
      const panel = this.panel;
      panel.replaceChildren(
        make("h4", "Step " + number + " · " + threads[thread] + (func ? " · " + func + "()" : "")),
        make("p", what));
      if (sources[func]) panel.append(make("p", sources[func]));
      for (const finding of findings) panel.append(make("strong", "▲ " + finding, "mark"));
      panel.append(make("p", changes.length
        ? changes.length + (changes.length === 1 ? " cell changes" : " cells change")
        : "Changes nothing."));
      const table = make("table");
      const head = make("tr");
      for (const title of ["", "before", "after"]) head.append(make("th", title));
      table.append(make("thead"));
      table.tHead.append(head);
      const body = make("tbody");
      let group = "";
      cells.forEach(([name, subject, cell], n) => {
        const old = state[n], now = after.has(n) ? after.get(n) : old;
        if (old === "" && now === "") return;
        if (name !== group) {
          group = name;
          const row = make("tr", undefined, "group");
          const title = make("th", name);
          title.colSpan = 3;
          row.append(title);
          body.append(row);
        }
        const changed = after.has(n);
        const row = make("tr", undefined, changed ? "changed" : "same");
        row.dataset.cell = [name, subject, cell].join("/");
        row.append(make("th", (changed ? "▸ " : "") + subject + " " + cell),
          make("td", old || "–"), make("td", now || "–"));
        body.append(row);
      });
      table.append(body);
      panel.append(table);
      const hit = table.querySelector(".changed");
      if (hit) panel.scrollTop = hit.offsetTop - panel.clientHeight / 3; else panel.scrollTop = 0;
    }
  }

  const plays = new Map();
  for (const article of document.querySelectorAll("article[id]")) {
    const root = article.querySelector(".play");
    if (root && root.querySelector(".cpus")) plays.set(article.id, new Play(root, article.id));
  }

  const follow = () => {
    const wanted = /^#(t\d+r\d+)s(\d+)$/.exec(location.hash);
    const play = wanted && plays.get(wanted[1]);
    const row = play && play.rows.find(one => one.dataset.step === wanted[2]);
    if (row) play.choose(row, "center");
  };
  addEventListener("hashchange", follow);
  follow();

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected: Ctrl-C copies";
      }
    });
  }
})();
