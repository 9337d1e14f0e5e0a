<?php

declare(strict_types=1);

namespace Shop;

$GLOBALS['files']['src/Health.php'] = '@RELEASE@';

final class Health
{
    public static function up(): array
    {
        $config = require __DIR__ . '/../config/shop.php';
        Queue::connect($config['redis'])->ping();
        return ['page' => 'up'];
    }
}
