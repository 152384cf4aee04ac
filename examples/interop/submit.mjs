// A job from Node.js: npm install && node submit.mjs '{"amount": 12}'
import kafkajs from "kafkajs";

const { GATE_BOOTSTRAP = "localhost:9092", GATE_PREFIX = "gate", GATE_SERVICE = "payments" } = process.env;
const topic = `${GATE_PREFIX}.requests.${GATE_SERVICE}`;

const kafka = new kafkajs.Kafka({ brokers: GATE_BOOTSTRAP.split(","), logLevel: kafkajs.logLevel.ERROR });
const producer = kafka.producer({ idempotent: true, createPartitioner: kafkajs.Partitioners.DefaultPartitioner });
await producer.connect();
const [{ partition, baseOffset }] = await producer.send({
  topic,
  messages: [
    {
      key: "customer-7", // jobs with the same key stay in one partition
      value: process.argv[2] ?? "{}",
      headers: {
        "gate-tenant": "acme", // all optional: on whose behalf, which lane, how much of the limits,
        "gate-priority": "interactive",
        "gate-cost": "2",
        "gate-deadline": String(Date.now() + 60_000), // and until when it is of use
      },
    },
  ],
});
await producer.disconnect();
// By this id the gate speaks of the request: in its stamps on the admitted, delayed and rejected topics.
console.log(`submitted ${topic}-${partition}@${baseOffset}`);
