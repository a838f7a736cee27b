import { reopenByButtons } from "./server.js";

reopenByButtons();
