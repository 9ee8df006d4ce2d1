// The viewer: draws the preview of a model (analysis/preview.go says what is in
// it) with WebGL 2. Without WebGL the picture that stands there stays.
//
// One Viewer per element .viewer[data-preview]. Buttons with data-show="x,y,z"
// anywhere on the page fly to a place.

const magic = "inshprv1";
const noThickness = 65535;
const fieldOfView = Math.PI / 6;

// The colours of a scale from 0 to twice the limit; the server's pictures have the same.
const heat = [[192, 58, 0], [232, 122, 29], [246, 232, 200], [143, 191, 224], [31, 95, 168]];

// Marks: open edges, edges of more than two facets, crossings; then the ground.
const inks = [[1, .12, .45, 1], [1, .78, .1, 1], [.35, .95, 1, 1], [.75, .82, .95, .13]];
const markNames = ["open edges", "edges of three facets or more", "crossing facets"];

/** Reads a preview into buffers and facts. */
function parse(buffer) {
  const view = new DataView(buffer);
  const name = String.fromCharCode(...new Uint8Array(buffer, 0, 8));
  if (name !== magic) throw new Error("this is no preview");
  const box = Array.from({ length: 6 }, (_, i) => view.getFloat32(8 + 4 * i, true));
  const vertices = view.getUint32(32, true), lines = view.getUint32(36, true);
  const min = box.slice(0, 3), size = [0, 1, 2].map((k) => box[k + 3] - box[k]);
  const marks = new Float32Array(7 * lines), kinds = new Set();
  for (let i = 0, at = 44 + 12 * vertices; i < lines; i++, at += 16) {
    for (let k = 0; k < 6; k++) marks[7 * i + k] = min[k % 3] + size[k % 3] * view.getUint16(at + 2 * k, true) / 65535;
    marks[7 * i + 6] = view.getUint16(at + 12, true);
    kinds.add(marks[7 * i + 6]);
  }
  let measured = false;
  for (let i = 0, at = 44 + 6; i < vertices && !measured; i += 3, at += 36) measured = view.getUint16(at, true) !== noThickness;
  return { min, size, vertices, lines, marks, kinds, measured, coarse: view.getUint32(40, true) === 1, data: new Uint8Array(buffer, 44, 12 * vertices) };
}

// Vectors and matrices; matrices are columns, as WebGL wants them.
const add = (a, b) => a.map((x, i) => x + b[i]);
const sub = (a, b) => a.map((x, i) => x - b[i]);
const mul = (a, s) => a.map((x) => x * s);
const dot = (a, b) => a.reduce((s, x, i) => s + x * b[i], 0);
const length = (a) => Math.sqrt(dot(a, a));
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => mul(a, 1 / (length(a) || 1));
function times(a, b) {
  const m = new Float32Array(16);
  for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++) for (let k = 0; k < 4; k++) m[4 * c + r] += a[4 * k + r] * b[4 * c + k];
  return m;
}

const meshVertex = `#version 300 es
in vec3 place; in float thickness; in vec3 normal;
uniform mat4 projection, view; uniform vec3 least, size;
out vec3 n; out vec3 at; flat out float wall; out float deep;
void main() {
  at = least + size * place;
  vec4 p = view * vec4(at, 1.0);
  n = mat3(view) * normal; wall = thickness; deep = -p.z;
  gl_Position = projection * p;
}`;
const meshFragment = `#version 300 es
precision highp float;
in vec3 n; in vec3 at; flat in float wall; in float deep;
uniform vec3 colour, stops[5]; uniform float limit; uniform vec4 cut; uniform bool heated, capped;
out vec4 ink;
void main() {
  if (dot(cut.xyz, at) > cut.w) discard;
  vec3 base = colour;
  if (heated && gl_FrontFacing) {
    if (wall > 65534.5) base = vec3(0.55);
    else {
      float x = min(wall / limit, 2.0) * 2.0;
      int i = int(min(x, 3.0));
      base = mix(stops[i], stops[i + 1], x - float(i));
    }
  }
  vec3 m = normalize(n);
  if (!gl_FrontFacing) {
    m = -m;
    base = capped ? vec3(0.93, 0.55, 0.28) : vec3(0.72, 0.25, 0.22);
    if (capped) { ink = vec4(base * (0.72 + 0.28 * m.z), 1.0); return; }
  }
  float key = max(dot(m, normalize(vec3(0.35, 0.55, 0.75))), 0.0);
  float fill = max(dot(m, normalize(vec3(-0.7, 0.05, 0.5))), 0.0);
  float sky = 0.5 + 0.5 * m.y;
  float rim = pow(1.0 - max(m.z, 0.0), 3.0);
  vec3 light = base * (0.24 + 0.18 * sky + 0.60 * key + 0.20 * fill) + 0.10 * rim + 0.10 * pow(key, 24.0);
  ink = vec4(pow(light, vec3(heated ? 1.0 : 0.95)), 1.0);
}`;
// Lines are quads of a width in pixels.
const lineVertex = `#version 300 es
in vec2 corner; in vec3 from, to; in float kind;
uniform mat4 projection, view; uniform vec2 pixels; uniform float width; uniform vec4 inks[4]; uniform float nearer;
out vec4 colour; out vec3 at;
void main() {
  vec4 a = view * vec4(from, 1.0), b = view * vec4(to, 1.0);
  a.z += nearer * -a.z; b.z += nearer * -b.z;
  vec4 p = projection * a, q = projection * b;
  vec2 along = (q.xy / q.w - p.xy / p.w) * pixels;
  vec2 across = length(along) > 0.0 ? normalize(vec2(-along.y, along.x)) : vec2(0.0);
  vec4 end = corner.x > 0.5 ? q : p;
  end.xy += across * corner.y * width / pixels * end.w;
  colour = inks[int(kind)]; at = corner.x > 0.5 ? to : from;
  gl_Position = end;
}`;
const lineFragment = `#version 300 es
precision highp float;
in vec4 colour; in vec3 at; uniform float strength; uniform vec4 cut; out vec4 ink;
void main() { if (dot(cut.xyz, at) > cut.w) discard; ink = vec4(colour.rgb, 1.0) * colour.a * strength; }`;

class Viewer {
  constructor(element) {
    this.element = element;
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", (element.dataset.title || "Part") + ": turn with the arrow keys, zoom with plus and minus, move with shift and the arrow keys, home shows all");
    const gl = this.gl = this.canvas.getContext("webgl2", { antialias: true, alpha: true, premultipliedAlpha: true });
    if (!gl) throw new Error("no WebGL 2");
    this.heated = false;
    this.marked = true;
    this.cutAt = 1;
    this.cutAxis = -1;
    this.split = .5;
    this.comparing = false;
    this.shapes = {};
    this.make();
  }

  make() {
    const gl = this.gl;
    this.mesh = this.program(meshVertex, meshFragment);
    this.line = this.program(lineVertex, lineFragment);
    this.corners = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.corners);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, -1, 1, -1, 0, 1, 0, 1, 1, -1, 1, 1]), gl.STATIC_DRAW);
  }

  program(vertex, fragment) {
    const gl = this.gl, p = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(p, shader);
    }
    gl.linkProgram(p);
    const uniforms = {}, attributes = {};
    for (let i = gl.getProgramParameter(p, gl.ACTIVE_UNIFORMS) - 1; i >= 0; i--) {
      const name = gl.getActiveUniform(p, i).name;
      uniforms[name.replace("[0]", "")] = gl.getUniformLocation(p, name);
    }
    for (let i = gl.getProgramParameter(p, gl.ACTIVE_ATTRIBUTES) - 1; i >= 0; i--) {
      const name = gl.getActiveAttrib(p, i).name;
      attributes[name] = gl.getAttribLocation(p, name);
    }
    return { p, uniforms, attributes };
  }

  /** Puts a preview onto the graphics card. */
  upload(preview) {
    const gl = this.gl, shape = { ...preview, array: gl.createVertexArray(), markArray: gl.createVertexArray() };
    gl.bindVertexArray(shape.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, preview.data, gl.STATIC_DRAW);
    const a = this.mesh.attributes;
    for (const [at, n, kind, normal, offset] of [[a.place, 3, gl.UNSIGNED_SHORT, true, 0], [a.thickness, 1, gl.UNSIGNED_SHORT, false, 6], [a.normal, 3, gl.BYTE, true, 8]]) {
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, n, kind, normal, 12, offset);
    }
    this.lines(shape.markArray, preview.marks);
    delete shape.data;
    return shape;
  }

  lines(array, numbers) {
    const gl = this.gl, a = this.line.attributes;
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.corners);
    gl.enableVertexAttribArray(a.corner);
    gl.vertexAttribPointer(a.corner, 2, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, numbers, gl.STATIC_DRAW);
    for (const [at, n, offset] of [[a.from, 3, 0], [a.to, 3, 12], [a.kind, 1, 24]]) {
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, n, gl.FLOAT, false, 28, offset);
      gl.vertexAttribDivisor(at, 1);
    }
    gl.bindVertexArray(null);
  }

  /** Shows a part; before, if there is one, is what it is compared with. */
  show(after, before) {
    this.shapes = { after: this.upload(after), before: before && this.upload(before) };
    const all = [after, before].filter(Boolean);
    const min = [0, 1, 2].map((k) => Math.min(...all.map((s) => s.min[k])));
    const max = [0, 1, 2].map((k) => Math.max(...all.map((s) => s.min[k] + s.size[k])));
    this.box = { min, size: sub(max, min), middle: mul(add(min, max), .5) };
    this.radius = length(this.box.size) / 2 || 1;
    // The ground: a grid of round millimetres below the part.
    const step = 10 ** Math.round(Math.log10(this.radius / 4)), reach = Math.ceil(this.radius * 1.6 / step) * step;
    const cx = Math.round(this.box.middle[0] / step) * step, cy = Math.round(this.box.middle[1] / step) * step, z = min[2];
    const grid = [];
    for (let d = -reach; d <= reach + step / 2; d += step) grid.push(cx + d, cy - reach, z, cx + d, cy + reach, z, 3, cx - reach, cy + d, z, cx + reach, cy + d, z, 3);
    this.grid = { array: this.gl.createVertexArray(), count: grid.length / 7 };
    this.lines(this.grid.array, new Float32Array(grid));
    this.home();
  }

  home(now = true) { this.fly({ target: [...this.box.middle], distance: this.fit(), azimuth: -.65, elevation: .48 }, now); }
  fit() { return this.radius * 1.12 / Math.sin(fieldOfView / 2); }
  /** The vertical angle of view: the narrower side of the canvas has fieldOfView. */
  angle() { return 2 * Math.atan(Math.tan(fieldOfView / 2) / Math.min(1, this.aspect())); }
  aspect() { return (this.canvas.clientWidth || 4) / (this.canvas.clientHeight || 3); }

  /** Moves the camera to where it is wanted, in half a second. */
  fly(to, now) {
    if (now || !this.camera || matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.camera = { ...this.camera, ...to };
      this.draw();
      return;
    }
    const from = { ...this.camera };
    const began = performance.now(), id = this.flight = {};
    const step = (t) => {
      if (this.flight !== id) return;
      const x = Math.min((t - began) / 500, 1), s = x * x * (3 - 2 * x), mix = (a, b) => a + (b - a) * s;
      for (const key of Object.keys(to)) this.camera[key] = Array.isArray(to[key]) ? to[key].map((v, i) => mix(from[key][i], v)) : mix(from[key], to[key]);
      this.paint();
      if (x < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  /** Flies to a place and points at it. */
  look(place) {
    this.pin = place;
    const out = unit(sub(place, this.box.middle));
    const to = { target: place, distance: Math.max(this.fit() * .35, this.radius * .15) };
    if (length(sub(place, this.box.middle)) > this.radius * .05) {
      to.azimuth = Math.atan2(out[0], -out[1]);
      to.azimuth += Math.round((this.camera.azimuth - to.azimuth) / (2 * Math.PI)) * 2 * Math.PI;
      to.elevation = Math.max(-1.2, Math.min(1.2, Math.asin(out[2]) * .8 + .15));
    }
    this.fly(to);
  }

  eye() {
    const { target, distance, azimuth, elevation } = this.camera;
    const away = [Math.sin(azimuth) * Math.cos(elevation), -Math.cos(azimuth) * Math.cos(elevation), Math.sin(elevation)];
    const right = [Math.cos(azimuth), Math.sin(azimuth), 0];
    return { away, right, up: cross(away, right), at: add(target, mul(away, distance)) };
  }

  draw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.paint(); });
  }

  paint() {
    const gl = this.gl, canvas = this.canvas;
    if (!this.box || gl.isContextLost()) return;
    const scale = Math.min(devicePixelRatio || 1, 2);
    const w = Math.max(1, Math.round(canvas.clientWidth * scale)), h = Math.max(1, Math.round(canvas.clientHeight * scale));
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    const eye = this.eye(), { distance } = this.camera, f = 1 / Math.tan(this.angle() / 2), aspect = w / h;
    const near = Math.max(distance - this.radius * 4, distance * .02), far = distance + this.radius * 6;
    this.projection = new Float32Array([f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, 2 * far * near / (near - far), 0]);
    const { right: r, up: u, away: a, at } = eye;
    this.view = new Float32Array([r[0], u[0], a[0], 0, r[1], u[1], a[1], 0, r[2], u[2], a[2], 0, -dot(r, at), -dot(u, at), -dot(a, at), 1]);
    gl.viewport(0, 0, w, h);
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    const { after, before } = this.shapes;
    if (this.comparing && before) {
      const x = Math.round(w * this.split);
      gl.enable(gl.SCISSOR_TEST);
      gl.scissor(0, 0, x, h);
      this.paintShape(before, w, h);
      gl.scissor(x, 0, w - x, h);
      this.paintShape(after, w, h);
      gl.disable(gl.SCISSOR_TEST);
    } else this.paintShape(after, w, h);
    this.placePin();
  }

  cutPlane() {
    if (this.cutAxis < 0) return [0, 0, 0, 1];
    const plane = [0, 0, 0, this.box.min[this.cutAxis] + this.box.size[this.cutAxis] * this.cutAt];
    plane[this.cutAxis] = 1;
    return plane;
  }

  paintShape(shape, w, h) {
    const gl = this.gl, m = this.mesh.uniforms, l = this.line.uniforms, cut = this.cutPlane();
    gl.useProgram(this.mesh.p);
    gl.uniformMatrix4fv(m.projection, false, this.projection);
    gl.uniformMatrix4fv(m.view, false, this.view);
    gl.uniform3fv(m.least, shape.min);
    gl.uniform3fv(m.size, shape.size);
    gl.uniform3f(m.colour, .74, .78, .84);
    gl.uniform3fv(m.stops, heat.flat().map((x) => x / 255));
    gl.uniform1f(m.limit, this.limit * 100);
    gl.uniform4fv(m.cut, cut);
    gl.uniform1i(m.heated, this.heated && shape.measured);
    gl.uniform1i(m.capped, this.cutAxis >= 0);
    gl.disable(gl.BLEND);
    gl.depthMask(true);
    gl.bindVertexArray(shape.array);
    gl.drawArrays(gl.TRIANGLES, 0, shape.vertices);

    gl.useProgram(this.line.p);
    gl.uniformMatrix4fv(l.projection, false, this.projection);
    gl.uniformMatrix4fv(l.view, false, this.view);
    gl.uniform2f(l.pixels, w / 2, h / 2);
    gl.uniform4fv(l.inks, inks.flat());
    gl.uniform4fv(l.cut, [0, 0, 0, 1]);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.depthMask(false);
    const pixel = Math.min(devicePixelRatio || 1, 2);
    const lines = (array, count, width, strength, nearer, test) => {
      if (!count) return;
      gl.bindVertexArray(array);
      gl.uniform1f(l.width, width * pixel);
      gl.uniform1f(l.strength, strength);
      gl.uniform1f(l.nearer, nearer);
      gl.depthFunc(test);
      gl.drawArraysInstanced(gl.TRIANGLES, 0, 6, count);
    };
    lines(this.grid.array, this.grid.count, .6, 1, 0, gl.LESS);
    if (this.marked) {
      gl.uniform4fv(l.cut, cut);
      lines(shape.markArray, shape.lines, 1.1, .25, .001, gl.GREATER);
      lines(shape.markArray, shape.lines, 1.4, 1, .001, gl.LEQUAL);
    }
    gl.depthFunc(gl.LESS);
    gl.depthMask(true);
    gl.bindVertexArray(null);
  }

  /** Where a place is on the canvas, in CSS pixels. */
  project(place) {
    const m = times(this.projection, this.view), p = [...place, 1];
    const c = [0, 1, 2, 3].map((r) => p.reduce((s, x, k) => s + m[4 * k + r] * x, 0));
    return [(c[0] / c[3] + 1) / 2 * this.canvas.clientWidth, (1 - c[1] / c[3]) / 2 * this.canvas.clientHeight];
  }

  placePin() {
    if (!this.pin) return;
    const [x, y] = this.project(this.pin);
    this.pinElement.hidden = false;
    this.pinElement.style.transform = `translate(${x}px, ${y}px)`;
  }

  turn(dx, dy) {
    this.flight = null;
    this.camera.azimuth -= dx;
    this.camera.elevation = Math.max(-1.55, Math.min(1.55, this.camera.elevation + dy));
    this.draw();
  }

  move(dx, dy) { // in CSS pixels
    this.flight = null;
    const { right, up } = this.eye(), s = 2 * this.camera.distance * Math.tan(this.angle() / 2) / this.canvas.clientHeight;
    this.camera.target = add(this.camera.target, add(mul(right, -dx * s), mul(up, dy * s)));
    this.draw();
  }

  zoom(factor, x, y) {
    this.flight = null;
    const before = this.camera.distance;
    this.camera.distance = Math.max(this.radius * .02, Math.min(this.fit() * 5, before * factor));
    if (x !== undefined) { // what is below the pointer stays there
      const { right, up } = this.eye(), s = 2 * (before - this.camera.distance) * Math.tan(this.angle() / 2) / this.canvas.clientHeight;
      this.camera.target = add(this.camera.target, add(mul(right, (x - this.canvas.clientWidth / 2) * s), mul(up, (this.canvas.clientHeight / 2 - y) * s)));
    }
    this.draw();
  }

  listen() {
    const canvas = this.canvas, pointers = new Map();
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("pointerdown", (e) => {
      canvas.setPointerCapture(e.pointerId);
      pointers.set(e.pointerId, [e.offsetX, e.offsetY]);
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (e) => {
      const was = pointers.get(e.pointerId);
      if (!was) return;
      const now = [e.offsetX, e.offsetY], d = sub(now, was);
      if (pointers.size === 1) {
        if (e.buttons === 2 || e.buttons === 4 || e.shiftKey) this.move(...d);
        else this.turn(d[0] * .008, d[1] * .008);
      } else if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== e.pointerId)[1];
        const apart = length(sub(was, other)), middle = mul(add(now, other), .5);
        this.move(d[0] / 2, d[1] / 2);
        if (apart > 0) this.zoom(apart / Math.max(length(sub(now, other)), 1), ...middle);
      }
      pointers.set(e.pointerId, now);
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (e) => pointers.delete(e.pointerId));
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      const lines = e.deltaMode === 1 ? 16 : 1;
      this.zoom(Math.exp(Math.max(-120, Math.min(120, e.deltaY * lines)) * .0022), e.offsetX, e.offsetY);
    }, { passive: false });
    canvas.addEventListener("dblclick", () => { this.unpin(); this.home(false); });
    canvas.addEventListener("keydown", (e) => {
      const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
      if (arrow && e.shiftKey) this.move(arrow[0] * 24, arrow[1] * 24);
      else if (arrow) this.turn(arrow[0] * .12, arrow[1] * .12);
      else if (e.key === "+" || e.key === "=") this.zoom(.87);
      else if (e.key === "-") this.zoom(1.15);
      else if (e.key === "Home" || e.key === "0") { this.unpin(); this.home(false); }
      else return;
      e.preventDefault();
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("webglcontextlost", (e) => e.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { this.make(); this.show(...this.previews); });
  }

  unpin() { this.pin = null; this.pinElement.hidden = true; }
}

/** Makes the tools that stand over a viewer work. */
function tools(viewer, element) {
  const on = (name, do_) => element.querySelectorAll(`[data-tool="${name}"]`).forEach((one) => do_(one));
  const toggle = (button, state) => button.setAttribute("aria-pressed", String(state));
  const { after, before } = viewer.shapes;
  const legend = element.querySelector("[data-legend]");
  const update = () => {
    if (legend) legend.hidden = !viewer.heated;
    element.querySelectorAll("[data-limit-text]").forEach((one) => { one.textContent = format(viewer.limit * Number(one.dataset.limitText), element.dataset.unit); });
    viewer.draw();
  };
  on("heat", (b) => {
    b.hidden = !after.measured;
    b.addEventListener("click", () => { viewer.heated = !viewer.heated; toggle(b, viewer.heated); update(); });
  });
  on("marks", (b) => {
    const kinds = new Set([...after.kinds, ...(before ? before.kinds : [])]);
    b.hidden = kinds.size === 0;
    b.title = [...kinds].map((k) => markNames[k]).join(", ");
    b.addEventListener("click", () => { viewer.marked = !viewer.marked; toggle(b, viewer.marked); update(); });
  });
  on("home", (b) => b.addEventListener("click", () => { viewer.unpin(); viewer.home(false); }));
  on("limit", (select) => {
    viewer.limit = Number(select.value) || viewer.limit;
    select.addEventListener("change", () => { viewer.limit = Number(select.value); update(); });
  });
  on("full", (b) => {
    b.hidden = !element.requestFullscreen;
    b.addEventListener("click", () => document.fullscreenElement ? document.exitFullscreen() : element.requestFullscreen());
  });
  const cut = element.querySelector("[data-cut]");
  on("cut", (b) => b.addEventListener("click", () => {
    viewer.cutAxis = viewer.cutAxis >= 2 ? -1 : viewer.cutAxis + 1; // x, y, z, none
    if (viewer.cutAxis >= 0) { viewer.cutAt = .5; cut.querySelector("input").value = 50; }
    cut.hidden = viewer.cutAxis < 0;
    b.querySelector("span").textContent = viewer.cutAxis < 0 ? "Cut" : "Cut " + "xyz"[viewer.cutAxis];
    toggle(b, viewer.cutAxis >= 0);
    viewer.draw();
  }));
  cut?.querySelector("input").addEventListener("input", (e) => { viewer.cutAt = e.target.value / 100; viewer.draw(); });
  const compare = element.querySelector("[data-compare]");
  if (compare && before) {
    const range = compare.querySelector("input"), line = compare.querySelector(".divider");
    const slide = () => { viewer.split = range.value / 100; line.style.left = range.value + "%"; viewer.draw(); };
    on("compare", (b) => {
      b.hidden = false;
      b.addEventListener("click", () => { viewer.comparing = !viewer.comparing; compare.hidden = !viewer.comparing; toggle(b, viewer.comparing); slide(); });
      if (element.hasAttribute("data-comparing")) b.click();
    });
    range.addEventListener("input", slide);
  }
  update();
}

function format(mm, measure) {
  return measure === "in" ? (mm / 25.4).toFixed(3) + " in" : mm.toFixed(2) + " mm";
}

async function load(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error("the preview answered " + answer.status);
  return parse(await answer.arrayBuffer());
}

async function start(element) {
  let viewer;
  try {
    viewer = new Viewer(element);
    const { preview, before } = element.dataset;
    viewer.previews = await Promise.all([load(preview), before ? load(before).catch(() => null) : null]);
    viewer.limit = Number(element.dataset.limit) || 1;
    viewer.pinElement = document.createElement("div");
    viewer.pinElement.className = "pin";
    viewer.pinElement.hidden = true;
    element.prepend(viewer.canvas, viewer.pinElement);
    viewer.show(...viewer.previews);
    viewer.listen();
    tools(viewer, element);
    element.classList.add("live");
    element.viewer = viewer;
  } catch (error) {
    viewer?.canvas.remove();
    element.classList.add("still"); // the picture stays
    element.dataset.reason = error.message;
    console.warn("viewer:", error);
    return;
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-show]");
    if (!button) return;
    viewer.look(button.dataset.show.split(",").map(Number));
    if (button.dataset.heat !== undefined && !viewer.heated) element.querySelector('[data-tool="heat"]:not([hidden])')?.click();
    const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
    element.scrollIntoView({ block: "nearest", behavior: reduced ? "auto" : "smooth" });
  });
}

document.querySelectorAll(".viewer[data-preview]").forEach(start);
