<?php

declare(strict_types=1);

namespace Shop;

$GLOBALS['files']['src/Pages.php'] = '@RELEASE@';

final class Pages
{
    public static function front(): array
    {
        Nap::take(5_000);
        $config = self::config();
        ob_start();
        require __DIR__ . '/../templates/front.php';
        return ['page' => ob_get_clean()];
    }

    /** Waits for something, a payment service say. */
    public static function slow(int $milliseconds): array
    {
        Nap::take($milliseconds * 1000);
        return ['page' => 'waited'];
    }

    /** Takes long and works a little all the time. */
    public static function busy(int $milliseconds): array
    {
        $until = hrtime(true) + $milliseconds * 1_000_000;
        for ($n = 0; hrtime(true) < $until; $n++) {
            $sum = hash('sha256', str_repeat((string) $n, 2_000));
            Nap::take(25_000);
        }
        return ['page' => "worked $n times: $sum"];
    }

    /** Puts a job on the queue: one that takes $milliseconds. */
    public static function buy(string $id, int $milliseconds): array
    {
        $config = self::config();
        Queue::connect($config['redis'])->lPush($config['queue'], "$id $milliseconds");
        return ['page' => "bought $id"];
    }

    private static function config(): array
    {
        return require $_SERVER['DOCUMENT_ROOT'] . '/../config/shop.php';
    }
}
