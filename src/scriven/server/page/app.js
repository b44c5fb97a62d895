/** The page of a server: its views, and the access token. */

import * as api from "./api.js";
import * as compare from "./compare.js";
import { byId } from "./elements.js";
import { startFrame } from "./frame.js";
import * as read from "./read.js";
import * as watch from "./watch.js";
import * as write from "./write.js";

api.storeTokenFromAddress();
api.onTokenNeeded(() => {
  const [dialog, input] = [byId("token-dialog"), byId("token-input")];
  input.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue ? input.value : null), { once: true });
  });
});
startFrame({ write, read, watch, compare }, api.modelNames);
