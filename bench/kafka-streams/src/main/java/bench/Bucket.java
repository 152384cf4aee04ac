package bench;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** A token bucket of one partition, kept in a state store; each record is read, decided, stamped and passed on. */
final class Bucket implements Processor<byte[], byte[], byte[], byte[]> {
    static final String STORE = "buckets";
    static final String ADMITTED = "admitted";
    static final String DELAYED = "delayed";

    private static final String SERVICE = "service";
    private static final double PER_MS = 1.0 / 3_600_000; // one an hour: the burst is what is admitted
    private static final byte[] ADMITTED_STAMP = ADMITTED.getBytes(StandardCharsets.UTF_8);
    private static final byte[] DELAYED_STAMP = DELAYED.getBytes(StandardCharsets.UTF_8);

    private final double burst;
    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<String, byte[]> store;

    Bucket(double burst) {
        this.burst = burst;
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        this.context = context;
        this.store = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        long now = context.currentSystemTimeMs();
        byte[] state = store.get(SERVICE);
        double tokens = burst;
        if (state != null) {
            var buffer = ByteBuffer.wrap(state);
            tokens = buffer.getDouble();
            tokens = Math.min(burst, tokens + (now - buffer.getLong()) * PER_MS);
        }
        boolean admitted = tokens >= 1;
        if (admitted) {
            tokens -= 1;
        }
        store.put(SERVICE, ByteBuffer.allocate(16).putDouble(tokens).putLong(now).array());
        var headers = record.headers().add("decision", admitted ? ADMITTED_STAMP : DELAYED_STAMP);
        context.forward(record.withHeaders(headers), admitted ? ADMITTED : DELAYED);
    }
}
