// What is wrong with how the page looks, measured where it is drawn.
(() => {
  const round = (rect) => [rect.left, rect.top, rect.right, rect.bottom].map(Math.round);
  const visible = (element) => element.checkVisibility();

  // Every piece of text that is to be seen, with the room it takes.
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const said = node.textContent.trim();
    if (!said || !visible(node.parentElement)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      if (rect.width > 1 && rect.height > 1) texts.push({ said, rect, element: node.parentElement });
    }
  }
  const apart = (a, b) =>
    a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 2 || b.bottom <= a.top + 2;
  const overlaps = [];
  texts.forEach((one, i) => {
    for (const other of texts.slice(i + 1)) {
      if (!apart(one.rect, other.rect)) {
        overlaps.push([one.said, round(one.rect), other.said, round(other.rect)]);
      }
    }
  });

  // Text of a picture that is cut off at its edge.
  const cut = [];
  for (const { said, rect, element } of texts) {
    const plot = element.closest("svg");
    if (!plot) continue;
    const edge = plot.getBoundingClientRect();
    if (rect.left < edge.left - 1 || rect.right > edge.right + 1 ||
        rect.top < edge.top - 1 || rect.bottom > edge.bottom + 1) {
      cut.push([said, round(rect), round(edge)]);
    }
  }

  // Contrast as WCAG has it.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (color) => {
    const [r, g, b] = [...rgb(color)].map((it) => it / 255)
      .map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (rgb(color)[3] > 0) return color;
    }
    return "white";
  };
  const contrast = (color, element) => {
    const [a, b] = [light(color), light(behind(element))].sort((a, b) => a - b);
    return (b + 0.05) / (a + 0.05);
  };
  const faint = [];
  for (const { said, element } of texts) {
    const style = getComputedStyle(element);
    const color = element.closest("svg") ? style.fill : style.color;
    if (contrast(color, element) < 4.5) faint.push([said, color, behind(element)]);
  }
  const shapes = [...document.querySelectorAll(".line, .dot, .mark")].filter(visible);
  for (const shape of shapes) {
    const style = getComputedStyle(shape);
    const color = shape.matches(".dot") ? style.fill : style.stroke;
    if (contrast(color, shape) < 3) faint.push([shape.className.baseVal, color, behind(shape)]);
  }

  const figures = [...document.querySelectorAll("main section:has(figure)")].map((section) => {
    const plot = [...section.querySelectorAll(".plot")].filter(visible);
    const { width, height } = plot.length ? plot[0].getBoundingClientRect() : { width: 0, height: 0 };
    return {
      id: section.id,
      plots: plot.length,
      width,
      height,
      // Of the figure, which must fit on a sheet of paper.
      tall: section.querySelector("figure").getBoundingClientRect().height,
      shapes: plot.length ? plot[0].querySelectorAll(".line, .dot").length : 0,
      said: plot.length ? plot[0].getAttribute("aria-label") : null,
      rows: section.querySelectorAll("tbody tr").length,
    };
  });
  const sizes = texts.filter(({ element }) => element.closest("svg")).map(({ rect }) => rect.height);
  return {
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    background: light(behind(document.body)),
    texts: texts.length,
    smallest: Math.min(...sizes, 100),
    overlaps,
    cut,
    faint,
    figures,
    foreign: document.querySelectorAll("script, img, iframe, object, link").length,
    title: document.title,
  };
})()
