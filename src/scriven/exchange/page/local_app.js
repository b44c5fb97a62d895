/** The page in a file that `scriven export --to html` wrote: it writes and reads, and needs no server. */

import { modelNames } from "./api.js";
import { byId } from "./elements.js";
import { startFrame } from "./frame.js";
import * as read from "./read.js";
import * as write from "./write.js";

byId("read-source").placeholder = "Paste a text, or drop a file of plain text of any size.";
startFrame({ write, read }, modelNames);
