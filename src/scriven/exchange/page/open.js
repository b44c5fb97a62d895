/* Unpacks what this file holds, with what the browser has: the model, the page's style and its modules. */
(async () => {
  const say = (words) => (document.getElementById("opening").textContent = words);
  try {
    const header = JSON.parse(new TextDecoder().decode(await unpack("header")));
    globalThis.scriven = { header, arrays: arraysOf(header.arrays, await unpack("arrays")) };
    const style = document.createElement("style");
    style.textContent = header.style;
    document.head.append(style);
    document.body.insertAdjacentHTML("afterbegin", header.body);
    const map = document.createElement("script");
    map.type = "importmap";
    const address = (text) => `data:text/javascript;charset=utf-8,${encodeURIComponent(text)}`;
    map.textContent = JSON.stringify({ imports: Object.fromEntries(Object.entries(header.modules).map(([name, text]) => [name, address(text)])) });
    document.head.append(map);
    await import("scriven/local_app.js");
    document.getElementById("opening").remove();
    document.body.classList.remove("closed");
  } catch (error) {
    say(`This browser cannot open the model (${error.message}). Please open the file in a newer browser.`);
  }

  /** The bytes of a text in the page, unpacked. */
  async function unpack(id) {
    const { textContent, dataset } = document.getElementById(id);
    const packed = bytesOf(textContent).subarray(0, Number(dataset.bytes)); // without the padding
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** Bytes from text: seven characters are the digits of a number of 48 bits, the lowest first. Line ends only break lines. */
  function bytesOf(text) {
    const digits = new Int16Array(127).fill(-1);
    let base = 0;
    for (let code = 1; code < 127; code++) if (!((code > 6 && code < 14) || code === 26 || code === 27 || code === 60)) digits[code] = base++;
    const bytes = new Uint8Array(Math.ceil((text.length * 6) / 7));
    let [size, number, factor, held] = [0, 0, 1, 0];
    for (let place = 0; place < text.length; place++) {
      const digit = digits[text.charCodeAt(place)];
      if (digit < 0) continue;
      number += digit * factor;
      factor *= base;
      if (++held < 7) continue;
      for (let byte = 0; byte < 6; byte++) {
        const rest = Math.floor(number / 256);
        bytes[size++] = number - 256 * rest;
        number = rest;
      }
      [number, factor, held] = [0, 1, 0];
    }
    return bytes.subarray(0, size);
  }

  /** Typed arrays by name. Of wide numbers, the last bytes of all come first; the sign of a float32 was moved to its end. */
  function arraysOf(listed, data) {
    const kinds = { int8: Int8Array, uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array, float64: Float64Array };
    let place = 0;
    const read = ([name, kind, count]) => {
      const array = new kinds[kind](count);
      const bytes = new Uint8Array(array.buffer);
      const width = array.BYTES_PER_ELEMENT;
      for (let plane = 0; plane < width; plane++, place += count) {
        for (let at = 0; at < count; at++) bytes[at * width + plane] = data[place + at];
      }
      if (kind === "float32") new Uint32Array(array.buffer).forEach((bits, at, all) => (all[at] = (bits >>> 1) | (bits << 31)));
      return [name, array];
    };
    return Object.fromEntries(listed.map(read));
  }
})();
