// What a job does, decided by its data: the same table as tests/interop/app.py.
//
// Data is {"do": STEP} or {"do": [STEP, ...]}, a step {"op": NAME, ...}; any other data comes back as the result.

const CHILD_OPTIONS = {
  fail: { failParentOnFailure: true },
  ignore: { ignoreDependencyOnFailure: true },
  continue: { continueParentOnFailure: true },
  remove: { removeDependencyOnFailure: true },
};

export class Behaviour {
  constructor(context) {
    this.context = context;
    this.runs = new Map();
  }

  async run(job, token) {
    const steps = stepsOf(job.data);
    if (!steps) return job.data;
    const key = `${job.queueName}:${job.id}`;
    const run = (this.runs.get(key) ?? 0) + 1;
    this.runs.set(key, run);
    let result = null;
    for (const step of steps) result = await this[step.op](step, { job, token, run });
    return result;
  }

  async return({ value }) {
    return value;
  }

  async undefined() {
    return undefined;
  }

  async fail({ message, until }, { job }) {
    if (until === undefined || job.attemptsMade + 1 <= until) throw new Error(message);
    return `attempt ${job.attemptsMade + 1}`;
  }

  async unrecoverable({ message }) {
    throw new this.context.bullmq.UnrecoverableError(message);
  }

  async progress({ value }, { job }) {
    await job.updateProgress(value);
    return value;
  }

  async log({ line }, { job }) {
    await job.log(line);
    return line;
  }

  async gate({ name }) {
    const connection = this.context.dedicated();
    await connection.blpop(`${this.context.prefix}:gate:${name}`, 8);
    return name;
  }

  async later({ delay }, { job, token, run }) {
    if (run > 1) return "run again";
    await job.moveToDelayed(Date.now() + delay, token);
    throw new this.context.bullmq.DelayedError();
  }

  async limit({ delay }, { job, run }) {
    if (run > 1) return "run again";
    await this.context.queue(job.queueName).rateLimit(delay);
    throw this.context.bullmq.Worker.RateLimitError();
  }

  async update({ value }, { job }) {
    await job.updateData(value);
  }

  async children({ children }, { job, token, run }) {
    if (run === 1) {
      const jobs = children.map(({ name, data, attempts, on_failure }) => ({
        name,
        data,
        opts: {
          parent: { id: job.id, queue: job.queueQualifiedName },
          ...CHILD_OPTIONS[on_failure ?? "fail"],
          ...(attempts === undefined ? {} : { attempts }),
        },
      }));
      await this.context.queue(children[0].queue).addBulk(jobs);
      if (await job.moveToWaitingChildren(token)) throw new this.context.bullmq.WaitingChildrenError();
    }
    return null;
  }

  async drop(_step, { job }) {
    await job.removeUnprocessedChildren();
  }

  // The results of the children that completed, in an order that does not depend on their ids.
  async collect(_step, { job }) {
    return Object.values(await job.getChildrenValues()).map((value) => JSON.stringify(value)).sort();
  }
}

// A worker's own backoff strategies, as tests/interop/app.py registers them.
export function backoffStrategy(attemptsMade, type, error, job) {
  if (type === "linear") return 20 * attemptsMade;
  if (type === "by message") return error.message === "enough" ? -1 : job.data.pause;
  throw new Error(`no strategy is named ${type}`);
}

function stepsOf(data) {
  if (data === null || typeof data !== "object" || Array.isArray(data) || !data.do) return null;
  return Array.isArray(data.do) ? data.do : [data.do];
}
