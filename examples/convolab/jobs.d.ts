// Written by `convolab-worker schema --typescript`. Write it again instead of changing it.

import type { Job, JobsOptions, JobSchedulerTemplateOptions, Queue, RepeatOptions } from "bullmq";

/**
 * The dialogue ``dialogueId`` as speech; ``speed`` 1.0 is normal, 0.5 to 2.0 are possible.
 *
 * ``pauseMode`` "repeat" leaves time to say each line again. ``track`` names the file.
 */
export interface AudioRequest {
  dialogueId: string;
  episodeId?: string | null;
  /** @default 1.0 */
  speed?: number;
  /** @default "short" */
  pauseMode?: "none" | "repeat" | "short";
  /** @default "dialogue" */
  track?: string;
  userId?: string | null;
}

/** The recording: its file, its length in seconds, when each line is heard. */
export interface AudioResult {
  cues: Cue[];
  file: string;
  seconds: number;
}

/** A course: everything for ``courseId``; or, by the job's name, its audio alone. */
export interface CourseRequest {
  /** pattern: "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$" */
  courseId: string;
  /** @default "hare-and-tortoise" */
  episodeId?: string;
  /** @default "ja" */
  language?: "de" | "es" | "fr" | "ja";
  /** @default "N5" */
  jlptLevel?: "N1" | "N2" | "N3" | "N4" | "N5";
  /**
   * minimum: 2, maximum: 40
   * A whole number.
   * @default 8
   */
  dialogueLength?: number;
  /**
   * minimum: 0, maximum: 3
   * A whole number.
   * @default 2
   */
  variationCount?: number;
  /**
   * minimum: 0.5, maximum: 2.0
   * @default 1.0
   */
  speed?: number;
  /** A whole number. */
  imageCount?: number | null;
  speakers?: Speaker[] | null;
  userId?: string | null;
}

/** Where everything is, as paths from the output folder, and how long the lesson lasts. */
export interface CourseResult {
  course: string;
  courseId: string;
  dialogue: string;
  lesson: string;
  page: string;
  pictures: string[];
  seconds: number;
  title: string;
}

/** When a line is heard: seconds from the start of the recording. */
export interface Cue {
  /** A whole number. */
  line: number;
  start: number;
  end: number;
}

/**
 * A dialogue about the text ``episodeId``: so many lines, with so many variations each.
 *
 * It is saved as ``dialogueId``; without one, under the job's own id.
 */
export interface DialogueRequest {
  episodeId: string;
  dialogueId?: string | null;
  /** @default "ja" */
  language?: "de" | "es" | "fr" | "ja";
  /** @default "N5" */
  jlptLevel?: "N1" | "N2" | "N3" | "N4" | "N5";
  /**
   * minimum: 2, maximum: 40
   * A whole number.
   * @default 8
   */
  dialogueLength?: number;
  /**
   * minimum: 0, maximum: 3
   * A whole number.
   * @default 2
   */
  variationCount?: number;
  speakers?: Speaker[] | null;
  userId?: string | null;
}

/** What was made, and by whom or what. */
export interface DialogueResult {
  dialogueId: string;
  /** A whole number. */
  exchanges: number;
  file: string;
  /** A whole number. */
  lines: number;
  madeBy: string;
}

/** Pictures for the dialogue ``dialogueId``: ``imageCount`` at most, all of them without it. */
export interface ImageRequest {
  dialogueId: string;
  episodeId?: string;
  /** A whole number. */
  imageCount?: number;
  userId?: string;
}

/** The pictures, in order, and who or what made them. */
export interface ImageResult {
  files: string[];
  madeBy: string;
}

/**
 * Somebody who takes part in a dialogue.
 *
 * ``voice`` is a variant of the speech library, "f2" or "m3" for example; without it, speakers
 * get different voices in turn. ``reading`` is the name in kana, for a Japanese name in kanji;
 * ``english`` the name in Latin letters, for translations.
 */
export interface Speaker {
  name: string;
  voice?: string | null;
  reading?: string | null;
  english?: string | null;
}

/** The jobs by queue and name: their data, and what their handlers return. */
export interface Jobs {
  "audio-generation": {
    /**
     * Speak a dialogue that was saved, and save the recording.
     * Fails after 300 s.
     * Has 3 attempts, with backoff {"type": "exponential", "delay": 2000, "jitter": 0.5, "maxDelay": 60000}.
     */
    "generate-audio": {
      data: AudioRequest;
      result: AudioResult;
    };
  };
  "course-generation": {
    /**
     * Make a course's recordings again, with its dialogue and pictures as they are.
     * Fails after 120 s.
     * Has 3 attempts, with backoff {"type": "exponential", "delay": 2000, "jitter": 0.5, "maxDelay": 60000}.
     */
    "generate-audio": {
      data: CourseRequest;
      result: CourseResult;
    };
    /**
     * Make a whole course.
     * Fails after 120 s.
     * Has 3 attempts, with backoff {"type": "exponential", "delay": 2000, "jitter": 0.5, "maxDelay": 60000}.
     */
    "generate-course": {
      data: CourseRequest;
      result: CourseResult;
    };
  };
  "dialogue-generation": {
    /**
     * Write or compose a dialogue, and save it.
     * Fails after 300 s.
     * Has 3 attempts, with backoff {"type": "exponential", "delay": 2000, "jitter": 0.5, "maxDelay": 60000}.
     */
    "generate-dialogue": {
      data: DialogueRequest;
      result: DialogueResult;
    };
  };
  "image-generation": {
    /**
     * Make a card for each exchange of the dialogue, ``imageCount`` at most.
     * Fails after 600 s.
     * Has 3 attempts, with backoff {"type": "exponential", "delay": 2000, "jitter": 0.5, "maxDelay": 60000}.
     */
    generate: {
      data: ImageRequest;
      result: ImageResult;
    };
    /**
     * Make the cover, then a page for each sentence, ``imageCount`` pictures at most.
     * Fails after 600 s.
     * Has 3 attempts, with backoff {"type": "exponential", "delay": 2000, "jitter": 0.5, "maxDelay": 60000}.
     */
    "generate-script-images": {
      data: ImageRequest;
      result: ImageResult;
    };
  };
}

/** The names of the queues. */
export type QueueName = keyof Jobs;

/** The names of the jobs of a queue. */
export type JobName<Q extends QueueName> = keyof Jobs[Q] & string;

/** The data of a job. */
export type JobData<Q extends QueueName, N extends JobName<Q>> =
  Jobs[Q][N] extends { data: infer Data } ? Data : never;

/** What a job's handler returns. */
export type JobResult<Q extends QueueName, N extends JobName<Q>> =
  Jobs[Q][N] extends { result: infer Result } ? Result : never;

/** A job that was added: `await job.waitUntilFinished(queueEvents)` is its result. */
export type TypedJob<Q extends QueueName, N extends JobName<Q>> =
  Job<JobData<Q, N>, JobResult<Q, N>, string>;

/**
 * BullMQ's Queue, which refuses names and data that no handler takes:
 * `const queue: TypedQueue<"NAME"> = new Queue("NAME", { connection });`
 */
export type TypedQueue<Q extends QueueName> =
  Omit<Queue, "add" | "addBulk" | "upsertJobScheduler" | "name"> & {
    readonly name: string;

    add<N extends JobName<Q>>(
      name: N, data: JobData<Q, N>, opts?: JobsOptions,
    ): Promise<TypedJob<Q, N>>;

    addBulk(
      jobs: {
        [N in JobName<Q>]: { name: N; data: JobData<Q, N>; opts?: JobsOptions }
      }[JobName<Q>][],
    ): Promise<TypedJob<Q, JobName<Q>>[]>;

    upsertJobScheduler<N extends JobName<Q>>(
      id: string,
      repeat: Omit<RepeatOptions, "key">,
      template: { name: N; data: JobData<Q, N>; opts?: JobSchedulerTemplateOptions },
    ): Promise<TypedJob<Q, N>>;
  };
