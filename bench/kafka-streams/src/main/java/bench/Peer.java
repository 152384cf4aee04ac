package bench;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.Stores;

/**
 * What a Kafka Streams team would write: exactly-once v2, a token bucket in a state store, two sinks.
 *
 * <p>Arguments: bootstrap, application id, request topic, topic of the admitted, topic of the delayed, burst of one
 * partition. State is per partition, so a limit of the whole topic has to be dealt out to its partitions. The system
 * property {@code overrides} names a file of properties that come on top; threads that fail are then replaced.
 */
public final class Peer {
    private Peer() {}

    public static void main(String[] arguments) throws InterruptedException, IOException {
        var topology = new Topology();
        topology.addSource("requests", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), arguments[2])
                .addProcessor("gate", () -> new Bucket(Long.parseLong(arguments[5])), "requests")
                .addStateStore(
                        Stores.keyValueStoreBuilder(
                                        Stores.persistentKeyValueStore(Bucket.STORE), Serdes.String(), Serdes.ByteArray())
                                .withCachingEnabled() // of a commit interval, only the last state goes to the changelog
                                .withLoggingEnabled(Map.of()),
                        "gate")
                .addSink(Bucket.ADMITTED, arguments[3], Serdes.ByteArray().serializer(), Serdes.ByteArray().serializer(), "gate")
                .addSink(Bucket.DELAYED, arguments[4], Serdes.ByteArray().serializer(), Serdes.ByteArray().serializer(), "gate");

        var properties = new Properties();
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[1]);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, System.getProperty("state.dir"));
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");

        var overrides = System.getProperty("overrides");
        if (overrides != null) {
            try (var reader = Files.newBufferedReader(Path.of(overrides))) {
                properties.load(reader);
            }
        }

        var streams = new KafkaStreams(topology, properties);
        var failed = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            if (overrides != null) {
                return StreamThreadExceptionResponse.REPLACE_THREAD;
            }
            failed.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        // in the hook itself: the JVM ends with it, whatever other threads do
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(
                CloseOptions.timeout(Duration.ofSeconds(10))
                        .withGroupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP))));
        streams.start();
        failed.await();
        System.exit(1);
    }
}
