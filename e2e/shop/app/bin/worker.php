<?php
// A queue worker: takes a job, does it, takes the next. Told to go by SIGTERM it
// finishes the job in its hand first.
//
// Usage: worker.php LEDGER. Into that file go a line when a job begins and one when
// it is done. Each is one write to a file opened for appending, so that lines of
// many workers never mix.

declare(strict_types=1);

require __DIR__ . '/../vendor/autoload.php';

$config = require __DIR__ . '/../config/shop.php';
$ledger = fopen($argv[1], 'a');
$told = false;
pcntl_async_signals(true);
pcntl_signal(SIGTERM, static function () use (&$told): void {
    $told = true;
});

$who = sprintf('%s %s@%d %d', '@RELEASE@', getenv('SUPERD_SLOT'), getenv('SUPERD_GENERATION'), getmypid());
$write = static fn (string $what, string $id) => fwrite($ledger, sprintf("%s %s %s %d\n", $what, $id, $who, hrtime(true)));

$redis = Shop\Queue::connect($config['redis']);
$redis->setOption(Redis::OPT_READ_TIMEOUT, -1);
$hand = 'hand:' . getmypid(); // a job stays here while it is done: Redis does not forget it
echo "ready for jobs\n";
while (!$told) {
    $job = $redis->rawCommand('BLMOVE', $config['queue'], $hand, 'RIGHT', 'LEFT', '0.3');
    if (!is_string($job)) {
        continue;
    }
    [$id, $milliseconds] = explode(' ', $job);
    $write('START', $id);
    $until = hrtime(true) + (int) $milliseconds * 1_000_000;
    while (($left = $until - hrtime(true)) > 0) {
        usleep(max(1, intdiv($left, 1000))); // a signal cuts it short; the job goes on
    }
    $write('END', $id);
    $redis->lRem($hand, $job, 1);
}
echo "told to go, nothing in hand\n";
