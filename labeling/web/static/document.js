import { showMath } from "./math.js";

showMath();
