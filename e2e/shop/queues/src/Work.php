<?php

declare(strict_types=1);

namespace Shop;

/** What a job does, whichever framework brings it. */
final class Work
{
    private static array $kept = [];

    public static function do(string $id, int $milliseconds, string $how): void
    {
        self::write('START', $id);
        match ($how) {
            'nap' => self::nap($milliseconds),
            'child' => self::child($milliseconds),
            'fat' => self::$kept[] = str_repeat('x', 160 << 20), // more than the worker may have, for good
            'hang' => self::nap(600_000),
        };
        self::write('END', $id);
    }

    private static function nap(int $milliseconds): void
    {
        $until = hrtime(true) + $milliseconds * 1_000_000;
        while (($left = $until - hrtime(true)) > 0) {
            usleep(max(1, intdiv($left, 1000))); // a signal cuts it short; the job goes on
        }
    }

    /** Jobs that make a thumbnail run a program: it hears no signal that is not for it. */
    private static function child(int $milliseconds): void
    {
        exec('exec sleep ' . $milliseconds / 1000, result_code: $code);
        if ($code !== 0) {
            throw new \RuntimeException("the program of a job was cut short: $code");
        }
    }

    /** One write to a file opened for appending: lines of many workers never mix. */
    private static function write(string $what, string $id): void
    {
        $who = sprintf('%s %s@%d %d', '@RELEASE@', getenv('SUPERD_SLOT'), getenv('SUPERD_GENERATION'), getmypid());
        file_put_contents(getenv('LEDGER'), sprintf("%s %s %s %d\n", $what, $id, $who, hrtime(true)), FILE_APPEND);
    }
}
