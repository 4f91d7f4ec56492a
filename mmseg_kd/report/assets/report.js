'use strict';
(() => {
  const all = (selector, node = document) => [...node.querySelectorAll(selector)];
  const one = (selector, node = document) => node.querySelector(selector);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // Text goes into the page as text, never as markup: names come from configs and data sets.
  const say = (node, parts) => {
    node.replaceChildren(
      ...parts.map(([kind, text]) => {
        const piece = document.createElement(kind === 'b' ? 'b' : 'span');
        if (kind !== 'b' && kind) piece.className = kind;
        piece.textContent = text;
        return piece;
      }),
    );
  };

  // Theme: the system's, until the reader says otherwise.
  const theme = one('#theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const kept = (() => {
    try { return localStorage.getItem('mmseg-kd-theme'); } catch { return null; }
  })();
  if (kept === 'dark' || kept === 'light') document.documentElement.dataset.theme = kept;
  const isDark = () => (document.documentElement.dataset.theme || (system.matches ? 'dark' : 'light')) === 'dark';
  const nameTheme = () => { theme.textContent = isDark() ? 'Light theme' : 'Dark theme'; };
  theme.hidden = false;
  nameTheme();
  system.addEventListener('change', nameTheme);
  theme.addEventListener('click', () => {
    document.documentElement.dataset.theme = isDark() ? 'light' : 'dark';
    try { localStorage.setItem('mmseg-kd-theme', document.documentElement.dataset.theme); } catch { /* not kept */ }
    nameTheme();
  });

  // Charts: a cursor that follows the pointer, or the arrow keys.
  for (const chart of all('.chart')) {
    const data = JSON.parse(one('script', chart).textContent);
    const plot = one('.plot', chart);
    const cursor = one('.cursor', chart);
    const readout = one('.readout', chart);
    if (!data.x.length) continue;
    let at = data.x.length - 1;
    plot.setAttribute('role', 'slider');
    plot.setAttribute('tabindex', '0');
    plot.setAttribute('aria-valuemin', data.x[0]);
    plot.setAttribute('aria-valuemax', data.x[at]);
    const tell = (index, visible) => {
      at = clamp(index, 0, data.x.length - 1);
      const shown = data.names.map((name, i) => [name, data.values[i][at], data.colours[i]]).filter((s) => s[1] !== null);
      plot.setAttribute('aria-valuenow', data.x[at]);
      plot.setAttribute('aria-valuetext', `${data.x_name} ${data.x[at]}: ${shown.map((s) => `${s[0]} ${s[1]}`).join(', ')}`);
      if (!visible) return;
      cursor.hidden = false;
      cursor.style.left = `${data.left[at]}%`;
      say(readout, [['', `Iteration ${data.x[at]}`], ...shown.flatMap(([name, value, colour]) => [[`swatch ${colour}`, ''], ['', `${name} `], ['b', value]])]);
    };
    tell(at, false);
    plot.addEventListener('pointermove', (event) => {
      const box = plot.getBoundingClientRect();
      const x = (100 * (event.clientX - box.left)) / box.width;
      let nearest = 0;
      data.left.forEach((left, i) => { if (Math.abs(left - x) < Math.abs(data.left[nearest] - x)) nearest = i; });
      tell(nearest, true);
    });
    plot.addEventListener('focus', () => tell(at, true));
    plot.addEventListener('keydown', (event) => {
      const page = Math.max(1, Math.round(data.x.length / 10));
      const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -page, PageUp: page, Home: -Infinity, End: Infinity };
      if (!(event.key in steps)) return;
      event.preventDefault();
      tell(at + steps[event.key], true);
    });
  }

  // Tables that sort by a column: numbers downwards first, names upwards.
  for (const table of all('table.sortable')) {
    const heads = all('thead th', table);
    const body = one('tbody', table);
    heads.forEach((head, column) => {
      one('button', head).addEventListener('click', () => {
        const key = (row) => row.children[column].dataset.value;
        const rows = all('tr', body);
        const isText = column === 0;
        const before = head.getAttribute('aria-sort');
        const up = before === 'none' ? isText : before === 'descending';
        heads.forEach((other) => other.setAttribute('aria-sort', 'none'));
        head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
        rows.sort((a, b) => (isText ? key(a).localeCompare(key(b)) : Number(key(a)) - Number(key(b))) * (up ? 1 : -1));
        body.append(...rows);
      });
    });
  }
  const filter = one('#class-filter');
  if (filter) {
    filter.addEventListener('input', () => {
      const wanted = filter.value.trim().toLowerCase();
      for (const row of all('#class-table tbody tr')) row.hidden = !row.children[0].textContent.toLowerCase().includes(wanted);
    });
  }

  // Confusion: one network at a time, and the picture of many classes read cell by cell.
  const network = one('#confusion-of');
  if (network) {
    const choose = () => all('.matrix').forEach((matrix) => { matrix.hidden = matrix.id !== network.value; });
    one('.choice').hidden = false;
    network.addEventListener('change', choose);
    choose();
  }
  for (const map of all('.map')) {
    const data = JSON.parse(one('script', map.parentNode).textContent);
    const readout = one('.readout', map.parentNode);
    const cell = one('.cell', map);
    const count = data.classes.length;
    let [row, column] = [0, 0];
    map.tabIndex = 0;
    map.setAttribute('role', 'application');
    readout.setAttribute('aria-live', 'polite');
    readout.removeAttribute('aria-hidden');
    const tell = (r, c) => {
      [row, column] = [clamp(r, 0, count - 1), clamp(c, 0, count - 1)];
      const found = data.rows[row].find(([index]) => index === column);
      Object.assign(cell.style, { left: `${(100 * column) / count}%`, top: `${(100 * row) / count}%`, width: `${100 / count}%`, height: `${100 / count}%` });
      cell.hidden = false;
      say(readout, [['b', data.classes[row]], ['', ' as '], ['b', data.classes[column]], ['', `: ${found ? (found[1] / 10).toFixed(1) : '0.0'} %`]]);
    };
    map.addEventListener('pointermove', (event) => {
      const box = map.getBoundingClientRect();
      tell(Math.floor((count * (event.clientY - box.top)) / box.height), Math.floor((count * (event.clientX - box.left)) / box.width));
    });
    map.addEventListener('focus', () => tell(row, column));
    map.addEventListener('keydown', (event) => {
      const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -Infinity], End: [0, Infinity] };
      if (!(event.key in moves)) return;
      event.preventDefault();
      tell(row + moves[event.key][0], column + moves[event.key][1]);
    });
  }

  // Pictures: two layers of one image and a divider between them.
  const compare = one('#compare');
  if (compare) {
    const strips = all('.strip');
    const [left, right, scene, divider] = ['#left-layer', '#right-layer', '#scene', '#divider'].map((id) => one(id));
    const stage = one('.stage', compare);
    const names = all('img', strips[0]).map((image) => image.dataset.layer);
    for (const select of [left, right]) select.replaceChildren(...names.map((name, i) => new Option(name, i)));
    // The first network against the second, or against the mask.
    left.value = Math.min(2, names.length - 1);
    right.value = names.length > 3 ? 3 : 1;
    const show = () => {
      const images = all('img', strips[scene.value]);
      for (const [select, target] of [[left, one('.over', stage)], [right, one('.under', stage)]]) {
        const image = images[select.value];
        target.src = image.src;
        target.alt = image.alt;
        // Classes have sharp borders, however large they are shown.
        target.style.imageRendering = image.src.startsWith('data:image/png') ? 'pixelated' : '';
        target.width = image.width;
        target.height = image.height;
        target.setAttribute('width', image.getAttribute('width'));
        target.setAttribute('height', image.getAttribute('height'));
      }
      const strip = strips[scene.value];
      const region = one('.region', stage);
      const box = strip.dataset.box.split(' ').filter(Boolean);
      region.hidden = box.length !== 4;
      box.forEach((value, i) => { region.style[['left', 'top', 'width', 'height'][i]] = `${value}%`; });
      one('#scene-why').textContent = one('figcaption', strip).textContent + strip.dataset.outlined;
    };
    const divide = (value) => {
      divider.value = clamp(value, 0, 100);
      compare.style.setProperty('--at', `${divider.value}%`);
      divider.setAttribute('aria-valuetext', `${divider.value} % of the width shows ${names[left.value]}, the rest ${names[right.value]}`);
    };
    for (const select of [left, right, scene]) select.addEventListener('change', () => { show(); divide(divider.value); });
    divider.addEventListener('input', () => divide(divider.value));
    const drag = (event) => {
      const box = stage.getBoundingClientRect();
      divide(Math.round((100 * (event.clientX - box.left)) / box.width));
    };
    stage.addEventListener('pointerdown', (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
    stage.addEventListener('pointermove', (event) => { if (event.buttons) drag(event); });
    compare.hidden = false;
    show();
    divide(50);
  }
})();
