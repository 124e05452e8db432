// A notebook that is opened again without its kernel: JupyterLab writes "model not found" in a widget's place. Here the
// picture that is stored beside the widget stands there instead, or its text, and what to do; a kernel that still has
// the widget, or a cell that runs again, replaces it. What is stored is made anew whenever the notebook is saved: the
// panel may have trained on since its cell ran, and its sliders may have moved. Written by hand, as the module that
// JupyterLab loads: no build.
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
    return mimeType === "application/vnd.jupyter.widget-view+json" ? withStored(renderer, mimeType) : renderer;
  };
  panel.context.saveState.connect((_, state) => state === "started" && store(panel.content));
}

function withStored(renderer, mimeType) {
  const render = renderer.renderModel;
  let shown; // the id of the widget that was found
  renderer.renderModel = async function (model) {
    const id = model.data[mimeType].model_id;
    if (shown === id && this.node.childElementCount) return; // only what is stored beside it has changed
    // A widget that was found is an element; what JupyterLab says where it has none, or none yet, is bare text.
    const fill = () => this.node.childElementCount || this.node.replaceChildren(...stored(model));
    const soon = setTimeout(fill, 500);
    await render.call(this, model);
    clearTimeout(soon);
    shown = this.node.childElementCount && !this.node.querySelector(":scope > .fmlab-stored") ? id : undefined;
    fill();
  };
  return renderer;
}

function stored({ data, metadata }) {
  const word = document.createElement("p");
  word.className = "fmlab-stored";
  word.textContent = "As it was when it was saved. Run the cell again, after those above it, and it can be moved.";
  const png = data["image/png"];
  const kept = document.createElement(png ? "img" : "pre");
  if (png) {
    kept.src = `data:image/png;base64,${png}`;
    kept.alt = metadata["image/png"]?.alt ?? "";
    kept.style.maxWidth = "100%";
  } else {
    kept.textContent = data["text/plain"] ?? "";
  }
  return [word, kept];
}

function store(notebook) {
  for (const { outputArea } of notebook.widgets) {
    outputArea?.widgets.forEach(({ node }, number) => {
      const picture = node.querySelector(".fmlab-panel .fmlab-picture");
      const output = outputArea.model.get(number);
      if (!picture?.naturalWidth || !output.data["image/png"]) return;
      const said = css => node.querySelector(`.fmlab-panel > ${css}, .fmlab-panel > * > ${css}`)?.textContent.trim();
      const status = said(".fmlab-status");
      const words = `${said(".fmlab-summary") || said(".fmlab-error")}${status ? ` (${status})` : ""}`;
      const png = withWords(picture, words).toDataURL("image/png").split(",")[1];
      const metadata = { ...output.metadata, "image/png": { ...output.metadata["image/png"], alt: words } };
      output.setData({ data: { ...output.data, "image/png": png }, metadata });
    });
  }
}

// The picture over these words, as Canvas.with_words in Python has it.
function withWords(picture, words) {
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  const size = 15 * (picture.closest(".fmlab-projector") ? 1.5 : 1); // pixels
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
  pen.drawImage(picture, 0, 0);
  const [r, g, b] = pen.getImageData(0, 0, 1, 1).data; // the picture's paper
  pen.fillStyle = `rgb(${r}, ${g}, ${b})`;
  pen.fillRect(0, height, width, canvas.height - height);
  pen.fillStyle = r + g + b > 382 ? "#1a1a1a" : "#eeeeee";
  pen.font = font;
  lines.forEach((line, number) => pen.fillText(line, 0.01 * width, height + 1.5 * size * (number + 1)));
  return canvas;
}
