// A notebook that is opened again without its kernel: JupyterLab writes "model not found" in a widget's place. Here the
// picture that is stored beside the widget stands there instead, or its text, and what to do; a kernel that still has
// the widget, or a cell that runs again, replaces it. What is stored is made anew whenever the notebook is saved: the
// panel may have trained on since its cell ran, and its sliders may have moved. Written by hand, as the module that
// JupyterLab loads: no build.
(() => {
  const VIEW = "application/vnd.jupyter.widget-view+json";

  (window._JUPYTERLAB ??= {}).fmlab = {
    init: () => {},
    get: async () => () => ({
      id: "fmlab:stored",
      description: "Stores what a panel shows, and shows it where the kernel is gone",
      autoStart: true,
      activate: app => app.docRegistry.addWidgetExtension("Notebook", { createNew: watch })
    })
  };

  function watch(panel) {
    const rendermime = panel.content.rendermime;
    const create = rendermime.createRenderer;
    rendermime.createRenderer = function (mimeType) {
      const renderer = create.call(this, mimeType);
      return mimeType === VIEW ? withStored(renderer, rendermime) : renderer;
    };
    panel.context.saveState.connect((_, state) => state === "started" && store(panel.content));
  }

  function withStored(renderer, rendermime) {
    const render = renderer.renderModel;
    let shown; // the id of the widget that was found
    renderer.renderModel = async function (model) {
      const id = model.data[VIEW].model_id;
      if (shown === id) return; // only what is stored beside it has changed
      const fill = async () => {
        // A widget that was found is an element; what JupyterLab says where it has none, or none yet, is bare text.
        const found = () => this.node.childElementCount && !this.node.querySelector(":scope > .fmlab-stored");
        const parts = found() ? [] : await stored(rendermime, model);
        if (found()) shown = id;
        else this.node.replaceChildren(...parts);
      };
      const soon = setTimeout(fill, 500);
      await render.call(this, model);
      clearTimeout(soon);
      await fill();
    };
    return renderer;
  }

  // What stands there where there are no widgets at all, and what to do.
  async function stored(rendermime, model) {
    const { [VIEW]: _, ...data } = model.data;
    const kept = rendermime.createRenderer(rendermime.preferredMimeType(data, model.trusted ? "any" : "ensure"));
    await kept.renderModel(model);
    const word = document.createElement("p");
    word.className = "fmlab-stored";
    word.textContent = "As it was when it was saved. Run the cell again, after those above it, and it can be moved.";
    return [word, kept.node];
  }

  function store(notebook) {
    for (const { outputArea } of notebook.widgets) {
      outputArea?.widgets.forEach(({ node }, number) => {
        const pictures = [...node.querySelectorAll(".fmlab-panel img.fmlab-picture, .fmlab-panel .fmlab-picture img")];
        const { data } = outputArea.model.get(number);
        if (!pictures.length || !pictures.every(p => p.naturalWidth) || !data["image/png"]) return;
        const said = css => node.querySelector(`.fmlab-panel ${css}`)?.textContent.trim();
        const status = said(".fmlab-status");
        const tag = document.createElement("img");
        tag.alt = `${said(".fmlab-summary") || said(".fmlab-error")}${status ? ` (${status})` : ""}`;
        tag.src = withWords(placed(pictures), tag.alt).toDataURL("image/png");
        const png = tag.src.split(",")[1];
        outputArea.model.get(number).setData({ data: { ...data, "image/png": png, "text/html": tag.outerHTML } });
      });
    }
  }

  // Where each plot stands in the grid of Canvas in Python, however narrow the page is that shows them now.
  function placed(pictures) {
    const number = (element, word) => Number(new RegExp(`${word}-(\\d+)`).exec(element?.className)?.[1] ?? 1);
    const columns = number(pictures[0].closest(".fmlab-pictures"), "fmlab-columns");
    const unit = pictures[0].naturalWidth / number(pictures[0].closest(".fmlab-picture"), "fmlab-span");
    const row = pictures[0].naturalHeight;
    let at = 0;
    return pictures.map(picture => {
      const span = number(picture.closest(".fmlab-picture"), "fmlab-span");
      if ((at % columns) + span > columns) at += (columns - (at % columns)) % columns;
      const place = { picture, x: Math.round((at % columns) * unit), y: Math.floor(at / columns) * row };
      at += span;
      return place;
    });
  }

  // The pictures over these words, as Canvas.with_words in Python has it.
  function withWords(places, words) {
    const width = Math.max(...places.map(({ picture, x }) => x + picture.naturalWidth));
    const height = Math.max(...places.map(({ picture, y }) => y + picture.naturalHeight));
    const size = 15 * (places[0].picture.closest(".fmlab-projector") ? 1.5 : 1); // pixels
    const canvas = document.createElement("canvas");
    const pen = canvas.getContext("2d");
    const font = `${size}px sans-serif`;
    pen.font = font;
    const lines = [""];
    for (const word of words.split(/\s+/)) {
      const longer = `${lines.at(-1)} ${word}`.trim();
      if (pen.measureText(longer).width < 0.97 * width) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    Object.assign(canvas, { width, height: height + Math.round((1.5 * lines.length + 1) * size) });
    places.forEach(({ picture, x, y }) => pen.drawImage(picture, x, y));
    const [r, g, b] = pen.getImageData(0, 0, 1, 1).data; // the picture's paper
    pen.fillStyle = `rgb(${r}, ${g}, ${b})`;
    pen.globalCompositeOperation = "destination-over"; // a corner of the grid without a plot is paper, too
    pen.fillRect(0, 0, width, canvas.height);
    pen.globalCompositeOperation = "source-over";
    pen.fillStyle = r + g + b > 382 ? "#1a1a1a" : "#eeeeee";
    pen.font = font;
    lines.forEach((line, number) => pen.fillText(line, 0.01 * width, height + 1.5 * size * (number + 1)));
    return canvas;
  }
})();
