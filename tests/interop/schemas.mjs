// The same contract as an API's side writes it, with each library that knows Standard JSON Schema:
// payloads as they leave the API, results as they reach it.

import { toJsonSchema } from "@valibot/to-json-schema";
import { type } from "arktype";
import * as v from "valibot";
import * as z from "zod";

import { answer } from "./requests.mjs";

const libraries = {
  zod({ speed, seconds }) {
    const Line = z.object({ speaker: z.string(), text: z.string().min(1) });
    const payload = z.object({
      dialogueId: z.string(),
      lines: z.array(Line),
      speed: (speed === "text" ? z.string() : z.number().min(0).max(2)).default(1),
      level: z.enum(["N5", "N4"]).optional(),
      note: z.string().nullable().optional(),
      at: z.iso.datetime().optional(),
    });
    const number = seconds === "whole" ? z.int() : z.number();
    const result = z.object({ url: z.string(), seconds: number, note: z.string().nullish() });
    return [z.toJSONSchema(payload, { io: "output" }), z.toJSONSchema(result, { io: "input" })];
  },

  valibot({ speed, seconds }) {
    const Line = v.object({ speaker: v.string(), text: v.pipe(v.string(), v.minLength(1)) });
    const payload = v.object({
      dialogueId: v.string(),
      lines: v.array(Line),
      speed: speed === "text" ? v.string() : v.pipe(v.number(), v.minValue(0), v.maxValue(2)),
      level: v.optional(v.picklist(["N5", "N4"])),
      note: v.optional(v.nullable(v.string())),
      at: v.optional(v.pipe(v.string(), v.isoTimestamp())),
    });
    const number = seconds === "whole" ? v.pipe(v.number(), v.integer()) : v.number();
    const result = v.object({ url: v.string(), seconds: number, note: v.nullish(v.string()) });
    return [
      toJsonSchema(payload, { typeMode: "output" }),
      toJsonSchema(result, { typeMode: "input" }),
    ];
  },

  arktype({ speed, seconds }) {
    const payload = type({
      dialogueId: "string",
      lines: type({ speaker: "string", text: "string >= 1" }).array(),
      speed: speed === "text" ? "string" : "0 <= number <= 2",
      "level?": "'N5' | 'N4'",
      "note?": "string | null",
    });
    const result = type({
      url: "string",
      seconds: seconds === "whole" ? "number.integer" : "number",
      "note?": "string | null",
    });
    return [payload.toJsonSchema(), result.toJsonSchema()];
  },
};

const object = (properties) => ({ type: "object", properties });

await answer({
  schema({ library, ...how }) {
    const [payload, result] = libraries[library](how);
    return object({ audio: object({ speak: object({ payload, result }) }) });
  },
});
