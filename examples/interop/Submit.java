// A job from Java, with org.apache.kafka:kafka-clients (Maven Central) on the class path:
//   java -cp 'kafka-clients.jar:slf4j-api.jar' Submit.java '{"amount": 12}'

import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class Submit {
  public static void main(String[] arguments) throws Exception {
    Map<String, String> environment = System.getenv();
    String topic =
        environment.getOrDefault("GATE_PREFIX", "gate")
            + ".requests."
            + environment.getOrDefault("GATE_SERVICE", "payments");
    Map<String, Object> config =
        Map.of("bootstrap.servers", environment.getOrDefault("GATE_BOOTSTRAP", "localhost:9092"));
    try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
      // Jobs with the same key stay in one partition.
      var job = new ProducerRecord<>(topic, "customer-7", arguments.length > 0 ? arguments[0] : "{}");
      // All headers are optional: on whose behalf, in which lane, and until when it is of use.
      header(job, "gate-tenant", "acme");
      header(job, "gate-priority", "interactive");
      header(job, "gate-deadline", Long.toString(System.currentTimeMillis() + 60_000));
      var placed = producer.send(job).get();
      // By this id the gate speaks of the request: in its stamps on the admitted, delayed and rejected topics.
      System.out.printf("submitted %s-%d@%d%n", topic, placed.partition(), placed.offset());
    }
  }

  private static void header(ProducerRecord<?, ?> job, String name, String value) {
    job.headers().add(name, value.getBytes(StandardCharsets.UTF_8));
  }
}
