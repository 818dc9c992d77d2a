// SPDX-License-Identifier: GPL-2.0-only
/** Four threads that allocate; run with a small heap and the serial collector. */
public class Alloc {
    static volatile Object keep;

    public static void main(String[] args) throws Exception {
        int rounds = args.length > 0 ? Integer.parseInt(args[0]) : 2000;
        Thread[] threads = new Thread[4];
        for (int i = 0; i < threads.length; i++) {
            threads[i] = new Thread(() -> {
                for (int n = 0; n < rounds; n++)
                    keep = new byte[4096 + n];
            });
            threads[i].start();
        }
        for (Thread one : threads)
            one.join();
    }
}
